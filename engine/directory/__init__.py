"""One model's directory on disk: who may write it, its epochs, recovery, backup and checks."""
