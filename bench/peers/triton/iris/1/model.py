"""The scikit-learn model behind Triton's Python backend; requests that Triton has batched run in one call."""

import os
import sys

sys.path.insert(0, os.environ["SITE_PACKAGES"])

import numpy as np
import triton_python_backend_utils as pb_utils
from joblib import load


class TritonPythonModel:
    def initialize(self, args):
        self.model = load("model.joblib")

    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "X").as_numpy() for request in requests]
        labels = self.model.predict(np.concatenate(inputs)).reshape(-1, 1)
        ends = np.cumsum([len(rows) for rows in inputs])[:-1]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("label", piece)]) for piece in np.split(labels, ends)]
