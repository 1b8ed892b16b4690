"""A 3-D analytic chest, projected like a radiograph: the embedded datasets' renderer (`render.render`)."""
