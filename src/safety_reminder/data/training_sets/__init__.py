"""Training sets: one loader a file, each giving :class:`~safety_reminder.types.TrainingExample` rows."""
