"""Condition types and reasons: every word that a FineTuneJob's status may say, with its meaning.

The operator and the trainer take reasons from here only, so that each has one meaning, one hint
and one row in `docs/reference/reasons.md`, which `finetune_api.reference` writes.
"""

from dataclasses import dataclass
from enum import StrEnum


class ConditionType(StrEnum):
    """Types of the conditions in `status.conditions`."""

    ACCEPTED = "Accepted"
    ADMITTED = "Admitted"
    INPUT_CHECKED = "InputChecked"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"
    OUTPUT_VERIFIED = "OutputVerified"


CONDITION_MEANINGS: dict[ConditionType, str] = {
    ConditionType.ACCEPTED: "The spec can be carried out by this version, and the jobs that it reads "
    "from are Complete.",
    ConditionType.ADMITTED: "A queue has granted the resources (only with a queue).",
    ConditionType.INPUT_CHECKED: "The preflight has found the input good (only with GPUs, which are "
    "asked for afterwards).",
    ConditionType.RUNNING: "All pods of the current attempt run.",
    ConditionType.SUSPENDED: "The job holds no resources because `spec.suspend` is set.",
    ConditionType.COMPLETE: "The job has ended and its verified output is published. Final.",
    ConditionType.FAILED: "The job has ended without an output. Final.",
    ConditionType.OUTPUT_VERIFIED: "The output was opened again from storage and gave the same logits.",
}


class FailureClass(StrEnum):
    """What kind of failure a reason stands for; it decides whether a retry can help."""

    NONE = "None"
    USER_ERROR = "UserError"
    INFRASTRUCTURE = "Infrastructure"
    OUT_OF_MEMORY = "OutOfMemory"
    DIVERGED = "Diverged"
    DISRUPTION = "Disruption"
    HANG = "Hang"
    INTERNAL = "Internal"


@dataclass(frozen=True)
class Meaning:
    """What a reason says, for the user."""

    failure: FailureClass
    text: str
    hint: str = ""


class Reason(StrEnum):
    """Reasons of conditions, attempts and failures. One CamelCase word each."""

    # The usual course.
    SPEC_ACCEPTED = "SpecAccepted"
    JOB_CREATED = "JobCreated"
    PODS_PENDING = "PodsPending"
    PODS_RUNNING = "PodsRunning"
    NOT_SUSPENDED = "NotSuspended"
    SUSPENDED_BY_USER = "SuspendedByUser"
    WAITING_FOR_JOB = "WaitingForJob"
    PREFLIGHT_PENDING = "PreflightPending"
    PREFLIGHT_RUNNING = "PreflightRunning"
    PREFLIGHT_PASSED = "PreflightPassed"
    WAITING_FOR_QUEUE = "WaitingForQueue"
    ADMITTED_BY_QUEUE = "AdmittedByQueue"
    SUSPENDING = "Suspending"
    RETRY_WAITING = "RetryWaiting"
    CHECKPOINT_PUBLISHED = "CheckpointPublished"
    STRAGGLER = "Straggler"
    OUTPUT_PUBLISHED = "OutputPublished"
    LOGITS_MATCH = "LogitsMatch"
    ENDED = "Ended"
    # The user can mend these.
    INVALID_SPEC = "InvalidSpec"
    NOT_IMPLEMENTED = "NotImplemented"
    NAME_CONFLICT = "NameConflict"
    SOURCE_JOB_FAILED = "SourceJobFailed"
    SOURCE_JOB_CYCLE = "SourceJobCycle"
    DATA_NOT_FOUND = "DataNotFound"
    DATA_EMPTY = "DataEmpty"
    DATA_INVALID = "DataInvalid"
    DATA_FORMAT_UNKNOWN = "DataFormatUnknown"
    DATA_ENCODING_UNKNOWN = "DataEncodingUnknown"
    DATA_CORRUPT = "DataCorrupt"
    DATA_TOO_LARGE = "DataTooLarge"
    COLUMN_NOT_FOUND = "ColumnNotFound"
    IDENTICAL_PAIRS = "IdenticalPairs"
    UNKNOWN_LABEL = "UnknownLabel"
    TOKEN_OUT_OF_RANGE = "TokenOutOfRange"  # noqa: S105
    ROWS_TOO_LONG = "RowsTooLong"
    NO_SUPERVISED_TOKENS = "NoSupervisedTokens"
    TOO_MANY_TRUNCATED = "TooManyTruncated"
    STOP_TOKEN_MISSING = "StopTokenMissing"  # noqa: S105
    DOUBLE_START_TOKEN = "DoubleStartToken"  # noqa: S105
    ONE_CLASS_ONLY = "OneClassOnly"
    TOO_MANY_DUPLICATES = "TooManyDuplicates"
    EVALUATION_LEAKED = "EvaluationLeaked"
    NO_REWARD_SIGNAL = "NoRewardSignal"
    CHAT_TEMPLATE_ERROR = "ChatTemplateError"
    MODEL_NOT_FOUND = "ModelNotFound"
    UNSAFE_WEIGHTS = "UnsafeWeights"
    CORRUPT_MODEL = "CorruptModel"
    REMOTE_CODE_REFUSED = "RemoteCodeRefused"
    UNSUPPORTED_MODEL = "UnsupportedModel"
    UNSUPPORTED_COMBINATION = "UnsupportedCombination"
    TARGET_MODULES_NOT_FOUND = "TargetModulesNotFound"
    BUCKET_NOT_FOUND = "BucketNotFound"
    STORAGE_ACCESS_DENIED = "StorageAccessDenied"
    STORAGE_CREDENTIALS_INVALID = "StorageCredentialsInvalid"
    STORAGE_CREDENTIALS_MISSING = "StorageCredentialsMissing"
    TLS_VERIFY_FAILED = "TLSVerifyFailed"
    HUB_ACCESS_DENIED = "HubAccessDenied"
    HUB_CREDENTIALS_INVALID = "HubCredentialsInvalid"
    HUB_CREDENTIALS_MISSING = "HubCredentialsMissing"
    OUTPUT_CONFLICT = "OutputConflict"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    STARTUP_DEADLINE_EXCEEDED = "StartupDeadlineExceeded"
    RESUME_INCOMPATIBLE = "ResumeIncompatible"
    DISTRIBUTED_UNSUPPORTED = "DistributedUnsupported"
    # The machine or the network.
    STORAGE_UNAVAILABLE = "StorageUnavailable"
    STORAGE_CORRUPTED = "StorageCorrupted"
    HUB_UNAVAILABLE = "HubUnavailable"
    HUB_RATE_LIMITED = "HubRateLimited"
    POD_LOST = "PodLost"
    POD_CONFIG_ERROR = "PodConfigError"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    GPU_NOT_FOUND = "GPUNotFound"
    JOB_DELETED = "JobDeleted"
    PREEMPTED = "Preempted"
    FENCED = "Fenced"
    NODE_LOST = "NodeLost"
    PEER_FAILED = "PeerFailed"
    HANG = "Hang"
    DISK_FULL = "DiskFull"
    OUT_OF_MEMORY = "OutOfMemory"
    # The run itself.
    DISTRIBUTED_MISMATCH = "DistributedMismatch"
    DIVERGED = "Diverged"
    ROWS_NOT_ISOLATED = "RowsNotIsolated"
    SANITY_CHECK_FAILED = "SanityCheckFailed"
    OUTPUT_VERIFICATION_FAILED = "OutputVerificationFailed"
    INTERNAL_ERROR = "InternalError"

    @property
    def meaning(self) -> Meaning:
        """The class, the sentence and the hint of this reason."""
        return MEANINGS[self]


_NONE, _USER = FailureClass.NONE, FailureClass.USER_ERROR
_INFRA, _INTERNAL = FailureClass.INFRASTRUCTURE, FailureClass.INTERNAL

MEANINGS: dict[Reason, Meaning] = {
    Reason.SPEC_ACCEPTED: Meaning(_NONE, "The spec can be carried out."),
    Reason.JOB_CREATED: Meaning(_NONE, "The attempt's Job exists; its pods do not run yet."),
    Reason.PODS_PENDING: Meaning(_NONE, "A pod of the attempt does not run yet."),
    Reason.PODS_RUNNING: Meaning(_NONE, "All pods of the attempt run."),
    Reason.NOT_SUSPENDED: Meaning(_NONE, "`spec.suspend` is not set."),
    Reason.SUSPENDED_BY_USER: Meaning(_NONE, "`spec.suspend` is set; nothing runs."),
    Reason.WAITING_FOR_JOB: Meaning(
        _NONE, "A job whose output this one reads is not Complete yet; nothing runs."
    ),
    Reason.PREFLIGHT_PENDING: Meaning(_NONE, "The pod that checks the input does not run yet."),
    Reason.PREFLIGHT_RUNNING: Meaning(
        _NONE, "The input is checked by a pod without GPUs, before any GPU is held."
    ),
    Reason.PREFLIGHT_PASSED: Meaning(_NONE, "The input was checked and found good."),
    Reason.WAITING_FOR_QUEUE: Meaning(
        _NONE, "The queue of `scheduling.queueName` has not admitted the job yet; nothing runs."
    ),
    Reason.ADMITTED_BY_QUEUE: Meaning(_NONE, "The queue has granted the resources."),
    Reason.SUSPENDING: Meaning(
        _NONE, "The pods were told to save a checkpoint and to end, because the job is suspended."
    ),
    Reason.RETRY_WAITING: Meaning(
        _NONE, "The last attempt failed in a way that may pass; the next one begins after a pause."
    ),
    Reason.CHECKPOINT_PUBLISHED: Meaning(_NONE, "A checkpoint can be resumed from."),
    Reason.STRAGGLER: Meaning(
        _NONE,
        "One rank is much slower than the others, which wait for it at every step: its node does other "
        "work, has a hot GPU or a slow link.",
    ),
    Reason.OUTPUT_PUBLISHED: Meaning(_NONE, "The manifest of the output is written."),
    Reason.LOGITS_MATCH: Meaning(
        _NONE, "The output, read back from storage, gives the trained logits."
    ),
    Reason.ENDED: Meaning(_NONE, "The job has ended."),
    Reason.INVALID_SPEC: Meaning(
        _USER, "The spec contradicts itself.", "Create a corrected job under another name."
    ),
    Reason.NOT_IMPLEMENTED: Meaning(
        _USER,
        "The spec asks for something that this version cannot do yet.",
        "Leave the named field out, or install a version that has it.",
    ),
    Reason.NAME_CONFLICT: Meaning(
        _USER,
        "An object that this job needs exists already and belongs to somebody else.",
        "Delete or rename that object, or create the job under another name.",
    ),
    Reason.SOURCE_JOB_FAILED: Meaning(
        _USER,
        "A job whose output this one reads has failed.",
        "Mend that job and create it anew, then create this one again.",
    ),
    Reason.SOURCE_JOB_CYCLE: Meaning(
        _USER,
        "Jobs wait for each other's output in a circle.",
        "Let one of the named sources be something other than `job://`.",
    ),
    Reason.DATA_NOT_FOUND: Meaning(
        _USER, "A data source does not exist.", "Compare the URI with what lies in the bucket."
    ),
    Reason.DATA_EMPTY: Meaning(
        _USER, "A data source has no rows.", "Check the file that was uploaded."
    ),
    Reason.DATA_INVALID: Meaning(
        _USER, "A row cannot be read.", "Mend the file at the line that the message names."
    ),
    Reason.DATA_FORMAT_UNKNOWN: Meaning(
        _USER,
        "The columns fit none of the known formats, or not the declared one.",
        "Set `data.format`, or rename the columns.",
    ),
    Reason.DATA_ENCODING_UNKNOWN: Meaning(
        _USER, "A text file is not UTF-8.", "Save the file as UTF-8."
    ),
    Reason.DATA_CORRUPT: Meaning(
        _USER,
        "A Parquet, Arrow or compressed file is damaged or incomplete.",
        "Write the file again, or upload it again.",
    ),
    Reason.DATA_TOO_LARGE: Meaning(
        _USER,
        "A file, a line or a value is larger than is ever read.",
        "Split the file, or give the rows as JSON Lines or Parquet.",
    ),
    Reason.COLUMN_NOT_FOUND: Meaning(
        _USER,
        "A column that `data.columns` or `data.format` names is absent.",
        "Compare the names with the columns in the message.",
    ),
    Reason.IDENTICAL_PAIRS: Meaning(
        _USER,
        "Too many preference rows have the same answer twice, so they prefer nothing.",
        "Remove those rows, or look at how the pairs were made.",
    ),
    Reason.UNKNOWN_LABEL: Meaning(
        _USER,
        "The labels are no usable set, or the evaluation rows have one that the training rows lack.",
        "Correct the label, or give training rows that have it.",
    ),
    Reason.TOKEN_OUT_OF_RANGE: Meaning(
        _USER,
        "A tokenized row has an id that the model has no embedding for.",
        "Tokenize the rows with the tokenizer of `model.source`.",
    ),
    Reason.ROWS_TOO_LONG: Meaning(
        _USER,
        "Too many rows keep nothing to learn from when they are cut to the longest length.",
        "Raise `data.maxLength`, or shorten the prompts.",
    ),
    Reason.NO_SUPERVISED_TOKENS: Meaning(
        _USER,
        "Too many rows have no token that carries loss.",
        "Raise `data.maxLength`, or check `data.loss` against the rows.",
    ),
    Reason.TOO_MANY_TRUNCATED: Meaning(
        _USER,
        "Too many rows are longer than the longest length and would be cut.",
        "Raise `data.maxLength`, split the rows, or raise `data.limits.maxTruncated`.",
    ),
    Reason.STOP_TOKEN_MISSING: Meaning(
        _USER,
        "Too many answers do not end with a token that ends a turn, so the model would not stop.",
        "End the rows' labels with the end-of-sequence token, or raise "
        "`data.limits.maxWithoutStopToken`.",
    ),
    Reason.DOUBLE_START_TOKEN: Meaning(
        _USER,
        "Rows begin with two start tokens, which the model has never seen.",
        "Remove the token from the rows or from the chat template.",
    ),
    Reason.ONE_CLASS_ONLY: Meaning(
        _USER,
        "All training rows are of one class, so there is nothing to tell apart.",
        "Give rows of at least two classes.",
    ),
    Reason.TOO_MANY_DUPLICATES: Meaning(
        _USER,
        "Too many training rows equal an earlier one.",
        "Remove the copies and give the source a `weight`, or raise `data.limits.maxDuplicates`.",
    ),
    Reason.EVALUATION_LEAKED: Meaning(
        _USER,
        "Too many held-out rows stand among the training rows, so they would measure memory.",
        "Remove them from one side, or raise `data.limits.maxLeaked`.",
    ),
    Reason.NO_REWARD_SIGNAL: Meaning(
        _USER,
        "All answers to a prompt got the same reward, in every step.",
        "Choose rewards that some answers reach, sample more answers, or begin from a model that was "
        "fine-tuned on examples.",
    ),
    Reason.CHAT_TEMPLATE_ERROR: Meaning(
        _USER,
        "The chat template is absent or fails.",
        "Set `data.chatTemplate`, or use prompt and completion columns.",
    ),
    Reason.MODEL_NOT_FOUND: Meaning(
        _USER, "The model source does not exist.", "Compare `model.source` with what lies there."
    ),
    Reason.UNSAFE_WEIGHTS: Meaning(
        _USER,
        "The model has no safetensors weights; pickled weights can run code and are refused.",
        "Convert it once with `save_pretrained(..., safe_serialization=True)` on a machine you trust.",
    ),
    Reason.CORRUPT_MODEL: Meaning(
        _USER, "A file of the model is damaged or missing.", "Upload the model again."
    ),
    Reason.REMOTE_CODE_REFUSED: Meaning(
        _USER,
        "The model or the data set brings its own code, which is never run.",
        "Use an architecture that transformers has; give data as files, not as a loading script.",
    ),
    Reason.UNSUPPORTED_MODEL: Meaning(
        _USER,
        "The architecture or the tokenizer cannot be used for this task.",
        "Check `config.json` and the tokenizer files of the model.",
    ),
    Reason.UNSUPPORTED_COMBINATION: Meaning(
        _USER,
        "This method or tuning does not work for this task or on this kind of model.",
        "The message says why; docs/reference/compatibility.md lists what works.",
    ),
    Reason.TARGET_MODULES_NOT_FOUND: Meaning(
        _USER,
        "`tuning.lora.targets` matches no module of the model.",
        "Take names from the list in the message, or `all-linear`.",
    ),
    Reason.BUCKET_NOT_FOUND: Meaning(
        _USER, "The bucket does not exist.", "Create it, or correct the URI or the endpoint."
    ),
    Reason.STORAGE_ACCESS_DENIED: Meaning(
        _USER,
        "The credentials are valid but may not do this.",
        "Grant the key read access to the inputs and write access to the output.",
    ),
    Reason.STORAGE_CREDENTIALS_INVALID: Meaning(
        _USER,
        "The store does not know the access key, or the secret key is wrong.",
        "Correct the Secret named in `storage.credentials`.",
    ),
    Reason.STORAGE_CREDENTIALS_MISSING: Meaning(
        _USER,
        "No credentials for the store, or the Secret lacks a key.",
        "The Secret needs `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.",
    ),
    Reason.TLS_VERIFY_FAILED: Meaning(
        _USER,
        "The store's certificate cannot be verified.",
        "Give its authority in `storage.caBundle`.",
    ),
    Reason.HUB_ACCESS_DENIED: Meaning(
        _USER,
        "The hub does not let this token read the repository: it is gated, or the token is too narrow.",
        "Accept the terms on the repository's page with the token's account, or use another token.",
    ),
    Reason.HUB_CREDENTIALS_INVALID: Meaning(
        _USER,
        "The hub does not know the token, or it has expired.",
        "Correct `HF_TOKEN` in the Secret named in `model.credentials` or `data.credentials`.",
    ),
    Reason.HUB_CREDENTIALS_MISSING: Meaning(
        _USER,
        "The Secret with the hub's token lacks its key.",
        "The Secret needs the key `HF_TOKEN`.",
    ),
    Reason.OUTPUT_CONFLICT: Meaning(
        _USER,
        "Another job has published to this output; it is never overwritten.",
        "Choose another `output.uri`, or remove the old output.",
    ),
    Reason.DEADLINE_EXCEEDED: Meaning(
        _USER,
        "The job was active for longer than `runPolicy.activeDeadlineSeconds`.",
        "Raise the deadline.",
    ),
    Reason.STARTUP_DEADLINE_EXCEEDED: Meaning(
        _USER,
        "No training step was done within `runPolicy.startupDeadlineSeconds`.",
        "Look at why the pods wait (`Running` condition), or raise the deadline.",
    ),
    Reason.RESUME_INCOMPATIBLE: Meaning(
        _USER,
        "The checkpoint was written by another recipe, model or data than this job now has.",
        "Undo the change that the message names, or create the job under another name.",
    ),
    Reason.DISTRIBUTED_UNSUPPORTED: Meaning(
        _USER,
        "This method or tuning cannot be spread over several processes in the way that was asked.",
        "Choose the strategy that the message names, or one GPU.",
    ),
    Reason.STORAGE_UNAVAILABLE: Meaning(
        _INFRA,
        "The store did not answer within the retries.",
        "Check the endpoint and the network.",
    ),
    Reason.STORAGE_CORRUPTED: Meaning(
        _INFRA,
        "What the store gave back is not what was stored: cut short, or other bytes.",
        "Check the store and whatever lies between; damaged bytes are never trained on.",
    ),
    Reason.HUB_UNAVAILABLE: Meaning(
        _INFRA,
        "The hub did not answer within the retries, or what came was damaged.",
        "Check the network and the installation's hub address (`HF_ENDPOINT`).",
    ),
    Reason.HUB_RATE_LIMITED: Meaning(
        _INFRA,
        "The hub refuses more requests from here for a while.",
        "Give a token in `model.credentials` or `data.credentials`: strangers share a small quota.",
    ),
    Reason.POD_LOST: Meaning(
        _INFRA, "A pod ended without a report.", "Look at the node and at the log tail."
    ),
    Reason.POD_CONFIG_ERROR: Meaning(
        _USER,
        "A pod cannot start because a Secret, ConfigMap or volume it names is missing.",
        "Create the named object in the job's namespace; the pod then starts by itself.",
    ),
    Reason.IMAGE_PULL_FAILED: Meaning(
        _INFRA,
        "The trainer image cannot be pulled.",
        "The image is the installation's: whoever installed the chart corrects `trainer.image` or the "
        "pull secret. The next attempt takes the corrected one.",
    ),
    Reason.GPU_NOT_FOUND: Meaning(
        _INFRA,
        "The job asks for a GPU, but its container sees none.",
        "Check the node's driver and `scheduling.runtimeClassName`; `resources.gpusPerNode: 0` "
        "trains on the CPU.",
    ),
    Reason.JOB_DELETED: Meaning(
        FailureClass.DISRUPTION,
        "Somebody deleted the attempt's Job.",
        "Nothing need be done: the job goes on with a new attempt. Delete the FineTuneJob itself to "
        "cancel it.",
    ),
    Reason.PREEMPTED: Meaning(
        FailureClass.DISRUPTION,
        "The pods were told to stop.",
        "Nothing need be done: the job goes on from its newest checkpoint.",
    ),
    Reason.FENCED: Meaning(
        FailureClass.DISRUPTION,
        "A newer attempt of this job writes to the output; this one stopped writing.",
        "Nothing need be done: the newer attempt goes on.",
    ),
    Reason.NODE_LOST: Meaning(
        FailureClass.DISRUPTION,
        "The node of a pod does not answer any more.",
        "Look at the node; the job goes on from its newest checkpoint elsewhere.",
    ),
    Reason.PEER_FAILED: Meaning(
        _INFRA,
        "This process ended because another one of its gang did.",
        "The pod that failed first tells why.",
    ),
    Reason.HANG: Meaning(
        FailureClass.HANG,
        "No progress was made for much longer than a step takes.",
        "The output's `diagnostics/` holds where each process stood.",
    ),
    Reason.DISK_FULL: Meaning(_USER, "The scratch volume is full.", "Raise `resources.scratch`."),
    Reason.OUT_OF_MEMORY: Meaning(
        FailureClass.OUT_OF_MEMORY,
        "Memory ran out, on the GPU or in the pod.",
        "Lower `training.microBatchSize` or `data.maxLength`, or raise `resources.memory`.",
    ),
    Reason.DIVERGED: Meaning(
        FailureClass.DIVERGED, "The loss is no longer a number.", "Lower `training.learningRate`."
    ),
    Reason.ROWS_NOT_ISOLATED: Meaning(
        _USER,
        "With this model, rows that are packed into one sequence would see each other.",
        "Set `data.packing: Disabled`.",
    ),
    Reason.DISTRIBUTED_MISMATCH: Meaning(
        _INTERNAL,
        "What really ran is not what was asked for: processes, sharding, precision or kernels.",
        "Please report this with the log.",
    ),
    Reason.SANITY_CHECK_FAILED: Meaning(
        _INTERNAL,
        "A step did not do what it must, such as move the trainable weights.",
        "Please report this with the log.",
    ),
    Reason.OUTPUT_VERIFICATION_FAILED: Meaning(
        _INTERNAL,
        "The output, read back from storage, differs from what was trained.",
        "Please report this with the log; the output was not published.",
    ),
    Reason.INTERNAL_ERROR: Meaning(
        _INTERNAL, "An error of ours.", "Please report this with the log tail."
    ),
}
