"""A local page and an HTTP endpoint that classify pictures with a run; `python -m cifar_flax.serve` starts them.

It needs starlette, uvicorn and python-multipart, the extra `serve`.
"""
