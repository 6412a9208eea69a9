"""Files, links, transforms and minibatches: everything between disk and model."""
