"""Files that hold a network of another framework: ONNX, TFLite, Keras. Nothing in them is run."""
