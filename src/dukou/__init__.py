"""dukou: from a trained model file to a live service, and from one version to the next without anyone noticing."""

__version__ = "0.1.0"
