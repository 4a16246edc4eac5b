"""Reasons that the user can mend in the model, the stores and the run's limits."""

from finetune_api.v1alpha1.meanings.meaning import FailureClass, Meaning

_USER = FailureClass.USER_ERROR

MODEL_AND_STORAGE: dict[str, Meaning] = {
    "ModelNotFound": Meaning(
        _USER, "The model source does not exist.", "Compare `model.source` with what lies there."
    ),
    "UnsafeWeights": Meaning(
        _USER,
        "The model has no safetensors weights; pickled weights can run code and are refused.",
        "Convert it once with `save_pretrained(..., safe_serialization=True)` on a machine you trust.",
    ),
    "CorruptModel": Meaning(
        _USER, "A file of the model is damaged or missing.", "Upload the model again."
    ),
    "RemoteCodeRefused": Meaning(
        _USER,
        "The model or the data set brings its own code, which is never run.",
        "Use an architecture that transformers has; give data as files, not as a loading script.",
    ),
    "UnsupportedModel": Meaning(
        _USER,
        "The architecture or the tokenizer cannot be used for this task.",
        "Check `config.json` and the tokenizer files of the model.",
    ),
    "UnsupportedCombination": Meaning(
        _USER,
        "This method or tuning does not work for this task or on this kind of model.",
        "The message says why; docs/reference/compatibility.md lists what works.",
    ),
    "TargetModulesNotFound": Meaning(
        _USER,
        "`tuning.lora.targets` matches no module of the model.",
        "Take names from the list in the message, or `all-linear`.",
    ),
    "BucketNotFound": Meaning(
        _USER, "The bucket does not exist.", "Create it, or correct the URI or the endpoint."
    ),
    "StorageAccessDenied": Meaning(
        _USER,
        "The credentials are valid but may not do this.",
        "Grant the key read access to the inputs and write access to the output.",
    ),
    "StorageCredentialsInvalid": Meaning(
        _USER,
        "The store does not know the access key, or the secret key is wrong.",
        "Correct the Secret named in `storage.credentials`.",
    ),
    "StorageCredentialsMissing": Meaning(
        _USER,
        "No credentials for the store, or the Secret lacks a key.",
        "The Secret needs `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.",
    ),
    "TLSVerifyFailed": Meaning(
        _USER,
        "The store's certificate cannot be verified.",
        "Give its authority in `storage.caBundle`.",
    ),
    "HubAccessDenied": Meaning(
        _USER,
        "The hub does not let this token read the repository: it is gated, or the token is too narrow.",
        "Accept the terms on the repository's page with the token's account, or use another token.",
    ),
    "HubCredentialsInvalid": Meaning(
        _USER,
        "The hub does not know the token, or it has expired.",
        "Correct `HF_TOKEN` in the Secret named in `model.credentials` or `data.credentials`.",
    ),
    "HubCredentialsMissing": Meaning(
        _USER,
        "The Secret with the hub's token lacks its key.",
        "The Secret needs the key `HF_TOKEN`.",
    ),
    "OutputConflict": Meaning(
        _USER,
        "Another job has published to this output; it is never overwritten.",
        "Choose another `output.uri`, or remove the old output.",
    ),
    "DeadlineExceeded": Meaning(
        _USER,
        "The job was active for longer than `runPolicy.activeDeadlineSeconds`.",
        "Raise the deadline.",
    ),
    "StartupDeadlineExceeded": Meaning(
        _USER,
        "No training step was done within `runPolicy.startupDeadlineSeconds`.",
        "Look at why the pods wait (`Running` condition), or raise the deadline.",
    ),
    "ResumeIncompatible": Meaning(
        _USER,
        "The checkpoint was written by another recipe, model or data than this job now has.",
        "Undo the change that the message names, or create the job under another name.",
    ),
    "DistributedUnsupported": Meaning(
        _USER,
        "This method or tuning cannot be spread over several processes in the way that was asked.",
        "Choose the strategy that the message names, or one GPU.",
    ),
}
