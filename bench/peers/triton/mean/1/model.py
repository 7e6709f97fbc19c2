"""The mean of an image behind Triton's Python backend."""

import os
import sys

sys.path.insert(0, os.environ["SITE_PACKAGES"])

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        images = [pb_utils.get_input_tensor_by_name(request, "X").as_numpy() for request in requests]
        means = [image.mean(axis=(1, 2, 3)).reshape(-1, 1) for image in images]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", mean)]) for mean in means]
