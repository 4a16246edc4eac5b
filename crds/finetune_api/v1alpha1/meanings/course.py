"""Reasons of the usual course: nothing has failed."""

from finetune_api.v1alpha1.meanings.meaning import FailureClass, Meaning

_NONE = FailureClass.NONE

COURSE: dict[str, Meaning] = {
    "SpecAccepted": Meaning(_NONE, "The spec can be carried out."),
    "JobCreated": Meaning(_NONE, "The attempt's Job exists; its pods do not run yet."),
    "PodsPending": Meaning(_NONE, "A pod of the attempt does not run yet."),
    "PodsRunning": Meaning(_NONE, "All pods of the attempt run."),
    "NotSuspended": Meaning(_NONE, "`spec.suspend` is not set."),
    "SuspendedByUser": Meaning(_NONE, "`spec.suspend` is set; nothing runs."),
    "WaitingForJob": Meaning(
        _NONE, "A job whose output this one reads is not Complete yet; nothing runs."
    ),
    "PreflightPending": Meaning(_NONE, "The pod that checks the input does not run yet."),
    "PreflightRunning": Meaning(
        _NONE, "The input is checked by a pod without GPUs, before any GPU is held."
    ),
    "PreflightPassed": Meaning(_NONE, "The input was checked and found good."),
    "WaitingForQueue": Meaning(
        _NONE, "The queue of `scheduling.queueName` has not admitted the job yet; nothing runs."
    ),
    "AdmittedByQueue": Meaning(_NONE, "The queue has granted the resources."),
    "Suspending": Meaning(
        _NONE, "The pods were told to save a checkpoint and to end, because the job is suspended."
    ),
    "RetryWaiting": Meaning(
        _NONE, "The last attempt failed in a way that may pass; the next one begins after a pause."
    ),
    "CheckpointPublished": Meaning(_NONE, "A checkpoint can be resumed from."),
    "Straggler": Meaning(
        _NONE,
        "One rank is much slower than the others, which wait for it at every step: its node does other "
        "work, has a hot GPU or a slow link.",
    ),
    "OutputPublished": Meaning(_NONE, "The manifest of the output is written."),
    "LogitsMatch": Meaning(_NONE, "The output, read back from storage, gives the trained logits."),
    "Ended": Meaning(_NONE, "The job has ended."),
}
