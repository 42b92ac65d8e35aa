"""What the features are worth: kNN, linear and fine-tuning probes."""
