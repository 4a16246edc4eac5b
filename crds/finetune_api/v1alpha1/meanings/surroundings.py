"""Reasons of the machine, the network and the run itself."""

from finetune_api.v1alpha1.meanings.meaning import FailureClass, Meaning

_USER = FailureClass.USER_ERROR
_INFRA = FailureClass.INFRASTRUCTURE
_INTERNAL = FailureClass.INTERNAL

SURROUNDINGS: dict[str, Meaning] = {
    "StorageUnavailable": Meaning(
        _INFRA,
        "The store did not answer within the retries.",
        "Check the endpoint and the network.",
    ),
    "StorageCorrupted": Meaning(
        _INFRA,
        "What the store gave back is not what was stored: cut short, or other bytes.",
        "Check the store and whatever lies between; damaged bytes are never trained on.",
    ),
    "HubUnavailable": Meaning(
        _INFRA,
        "The hub did not answer within the retries, or what came was damaged.",
        "Check the network and the installation's hub address (`HF_ENDPOINT`).",
    ),
    "HubRateLimited": Meaning(
        _INFRA,
        "The hub refuses more requests from here for a while.",
        "Give a token in `model.credentials` or `data.credentials`: strangers share a small quota.",
    ),
    "PodLost": Meaning(
        _INFRA, "A pod ended without a report.", "Look at the node and at the log tail."
    ),
    "PodConfigError": Meaning(
        _USER,
        "A pod cannot start because a Secret, ConfigMap or volume it names is missing.",
        "Create the named object in the job's namespace; the pod then starts by itself.",
    ),
    "ImagePullFailed": Meaning(
        _INFRA,
        "The trainer image cannot be pulled.",
        "The image is the installation's: whoever installed the chart corrects `trainer.image` or the "
        "pull secret. The next attempt takes the corrected one.",
    ),
    "GPUNotFound": Meaning(
        _INFRA,
        "The job asks for a GPU, but its container sees none.",
        "Check the node's driver and `scheduling.runtimeClassName`; `resources.gpusPerNode: 0` "
        "trains on the CPU.",
    ),
    "JobDeleted": Meaning(
        FailureClass.DISRUPTION,
        "Somebody deleted the attempt's Job.",
        "Nothing need be done: the job goes on with a new attempt. Delete the FineTuneJob itself to "
        "cancel it.",
    ),
    "Preempted": Meaning(
        FailureClass.DISRUPTION,
        "The pods were told to stop.",
        "Nothing need be done: the job goes on from its newest checkpoint.",
    ),
    "Fenced": Meaning(
        FailureClass.DISRUPTION,
        "A newer attempt of this job writes to the output; this one stopped writing.",
        "Nothing need be done: the newer attempt goes on.",
    ),
    "NodeLost": Meaning(
        FailureClass.DISRUPTION,
        "The node of a pod does not answer any more.",
        "Look at the node; the job goes on from its newest checkpoint elsewhere.",
    ),
    "PeerFailed": Meaning(
        _INFRA,
        "This process ended because another one of its gang did.",
        "The pod that failed first tells why.",
    ),
    "Hang": Meaning(
        FailureClass.HANG,
        "No progress was made for much longer than a step takes.",
        "The output's `diagnostics/` holds where each process stood.",
    ),
    "DiskFull": Meaning(_USER, "The scratch volume is full.", "Raise `resources.scratch`."),
    "OutOfMemory": Meaning(
        FailureClass.OUT_OF_MEMORY,
        "Memory ran out, on the GPU or in the pod.",
        "Lower `training.microBatchSize` or `data.maxLength`, or raise `resources.memory`.",
    ),
    "Diverged": Meaning(
        FailureClass.DIVERGED, "The loss is no longer a number.", "Lower `training.learningRate`."
    ),
    "RowsNotIsolated": Meaning(
        _USER,
        "With this model, rows that are packed into one sequence would see each other.",
        "Set `data.packing: Disabled`.",
    ),
    "DistributedMismatch": Meaning(
        _INTERNAL,
        "What really ran is not what was asked for: processes, sharding, precision or kernels.",
        "Please report this with the log.",
    ),
    "SanityCheckFailed": Meaning(
        _INTERNAL,
        "A step did not do what it must, such as move the trainable weights.",
        "Please report this with the log.",
    ),
    "OutputVerificationFailed": Meaning(
        _INTERNAL,
        "The output, read back from storage, differs from what was trained.",
        "Please report this with the log; the output was not published.",
    ),
    "InternalError": Meaning(
        _INTERNAL, "An error of ours.", "Please report this with the log tail."
    ),
}
