"""Extensions to copy: list their modules under `plugins:`."""
