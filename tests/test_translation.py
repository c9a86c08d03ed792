"""What the translators share: batches, beam search against an exhaustive one, metrics against plain ones, splits."""
