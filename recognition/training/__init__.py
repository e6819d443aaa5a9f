"""Train a protected recognizer: data -> frequency -> noise with budgets -> network -> model folder. Never
imported in production."""
