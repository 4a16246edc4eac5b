"""Condition types and reasons: every word that a FineTuneJob's status may say, with its meaning.

The operator and the trainer take reasons from here only, so that each has one meaning, one hint
(`meanings`) and one row in `docs/reference/reasons.md`, which `finetune_api.reference` writes.
"""

from enum import StrEnum

from finetune_api.v1alpha1.meanings import MEANINGS, Meaning


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
