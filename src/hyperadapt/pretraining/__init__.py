"""T5's pretraining on plain text, and on tasks and sentence vectors beside it (Raffel et al. 2020, section 3)."""
