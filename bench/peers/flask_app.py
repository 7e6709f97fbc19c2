"""The Flask service that dukou replaces: parse JSON, predict, answer JSON."""

import sys

import numpy as np
from flask import Flask, jsonify, request
from joblib import load

app = Flask(__name__)
model = load("model.joblib")


@app.route("/predict/iris", methods=["POST"])
def predict():
    data = request.get_json(force=True)
    return jsonify({"y_pred": model.predict(data["X"]).tolist()})


@app.route("/predict/mean", methods=["POST"])
def mean():
    data = request.get_json(force=True)
    X = np.array(data["X"], dtype=np.float32)
    return jsonify({"y_pred": X.mean(axis=(1, 2, 3)).tolist()})


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(sys.argv[1]))
