"""Reasons that the user can mend in the spec, the jobs around it and the data."""

from finetune_api.v1alpha1.meanings.meaning import FailureClass, Meaning

_USER = FailureClass.USER_ERROR

SPEC_AND_DATA: dict[str, Meaning] = {
    "InvalidSpec": Meaning(
        _USER, "The spec contradicts itself.", "Create a corrected job under another name."
    ),
    "NotImplemented": Meaning(
        _USER,
        "The spec asks for something that this version cannot do yet.",
        "Leave the named field out, or install a version that has it.",
    ),
    "NameConflict": Meaning(
        _USER,
        "An object that this job needs exists already and belongs to somebody else.",
        "Delete or rename that object, or create the job under another name.",
    ),
    "SourceJobFailed": Meaning(
        _USER,
        "A job whose output this one reads has failed.",
        "Mend that job and create it anew, then create this one again.",
    ),
    "SourceJobCycle": Meaning(
        _USER,
        "Jobs wait for each other's output in a circle.",
        "Let one of the named sources be something other than `job://`.",
    ),
    "DataNotFound": Meaning(
        _USER, "A data source does not exist.", "Compare the URI with what lies in the bucket."
    ),
    "DataEmpty": Meaning(_USER, "A data source has no rows.", "Check the file that was uploaded."),
    "DataInvalid": Meaning(
        _USER, "A row cannot be read.", "Mend the file at the line that the message names."
    ),
    "DataFormatUnknown": Meaning(
        _USER,
        "The columns fit none of the known formats, or not the declared one.",
        "Set `data.format`, or rename the columns.",
    ),
    "DataEncodingUnknown": Meaning(_USER, "A text file is not UTF-8.", "Save the file as UTF-8."),
    "DataCorrupt": Meaning(
        _USER,
        "A Parquet, Arrow or compressed file is damaged or incomplete.",
        "Write the file again, or upload it again.",
    ),
    "DataTooLarge": Meaning(
        _USER,
        "A file, a line or a value is larger than is ever read.",
        "Split the file, or give the rows as JSON Lines or Parquet.",
    ),
    "ColumnNotFound": Meaning(
        _USER,
        "A column that `data.columns` or `data.format` names is absent.",
        "Compare the names with the columns in the message.",
    ),
    "IdenticalPairs": Meaning(
        _USER,
        "Too many preference rows have the same answer twice, so they prefer nothing.",
        "Remove those rows, or look at how the pairs were made.",
    ),
    "UnknownLabel": Meaning(
        _USER,
        "The labels are no usable set, or the evaluation rows have one that the training rows lack.",
        "Correct the label, or give training rows that have it.",
    ),
    "TokenOutOfRange": Meaning(
        _USER,
        "A tokenized row has an id that the model has no embedding for.",
        "Tokenize the rows with the tokenizer of `model.source`.",
    ),
    "RowsTooLong": Meaning(
        _USER,
        "Too many rows keep nothing to learn from when they are cut to the longest length.",
        "Raise `data.maxLength`, or shorten the prompts.",
    ),
    "NoSupervisedTokens": Meaning(
        _USER,
        "Too many rows have no token that carries loss.",
        "Raise `data.maxLength`, or check `data.loss` against the rows.",
    ),
    "TooManyTruncated": Meaning(
        _USER,
        "Too many rows are longer than the longest length and would be cut.",
        "Raise `data.maxLength`, split the rows, or raise `data.limits.maxTruncated`.",
    ),
    "StopTokenMissing": Meaning(
        _USER,
        "Too many answers do not end with a token that ends a turn, so the model would not stop.",
        "End the rows' labels with the end-of-sequence token, or raise "
        "`data.limits.maxWithoutStopToken`.",
    ),
    "DoubleStartToken": Meaning(
        _USER,
        "Rows begin with two start tokens, which the model has never seen.",
        "Remove the token from the rows or from the chat template.",
    ),
    "OneClassOnly": Meaning(
        _USER,
        "All training rows are of one class, so there is nothing to tell apart.",
        "Give rows of at least two classes.",
    ),
    "TooManyDuplicates": Meaning(
        _USER,
        "Too many training rows equal an earlier one.",
        "Remove the copies and give the source a `weight`, or raise `data.limits.maxDuplicates`.",
    ),
    "EvaluationLeaked": Meaning(
        _USER,
        "Too many held-out rows stand among the training rows, so they would measure memory.",
        "Remove them from one side, or raise `data.limits.maxLeaked`.",
    ),
    "NoRewardSignal": Meaning(
        _USER,
        "All answers to a prompt got the same reward, in every step.",
        "Choose rewards that some answers reach, sample more answers, or begin from a model that was "
        "fine-tuned on examples.",
    ),
    "ChatTemplateError": Meaning(
        _USER,
        "The chat template is absent or fails.",
        "Set `data.chatTemplate`, or use prompt and completion columns.",
    ),
}
