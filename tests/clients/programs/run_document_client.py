"""The document's client, word for word, given an image: python run_document_client.py IMAGE.npy

It calls localhost:8500, as it says.
"""

import sys
from pathlib import Path

import numpy as np
from scenarios import run


def asked(image):
    code = Path(__file__).with_name("document_client.py").read_text(encoding="utf-8")
    names = {"image_data": image}
    exec(compile(code, "document_client.py", "exec"), names)
    outputs = names["result"].outputs
    tf = names["tf"]
    return {name: tf.make_ndarray(tensor) for name, tensor in outputs.items()}


if __name__ == "__main__":
    run(asked, given=[np.load(sys.argv[1])])
