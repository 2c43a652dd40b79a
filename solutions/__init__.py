"""What is right: the only definition of each chapter's algorithms."""
