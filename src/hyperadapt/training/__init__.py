"""Training on a mixture of tasks: a thin layer over transformers' Trainer."""
