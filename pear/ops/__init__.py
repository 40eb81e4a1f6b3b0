"""Pure tensor and array maths: no input or output, no configuration, no model. Needs torch alone."""
