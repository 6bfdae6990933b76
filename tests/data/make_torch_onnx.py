"""Writes torch_onnx.npz: what PyTorch's TorchScript exporter makes of small networks.

For each module that `from_onnx` reads, dtype and opset: its name, the file's bytes (all one behind
the other, with where each ends) and PyTorch's outputs for the same rows. Needs torch.
"""

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

MODULES = [
    *(nn.Sigmoid(), nn.Tanh(), nn.ReLU(), nn.LeakyReLU(0.2), nn.ELU(0.5), nn.ELU(), nn.SELU()),
    *(nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Softplus(), nn.Hardsigmoid(), nn.Hardswish()),
    *(nn.Mish(), nn.PReLU(), nn.CELU(), nn.Softmax(-1), nn.Dropout(0.3), nn.Identity()),
    *(nn.BatchNorm1d(4, eps=1e-3, momentum=0.2), nn.LayerNorm(4), nn.LayerNorm(4, bias=False)),
    *(nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 4, bias=False)),
]
FORMATS = [("float32", 11), ("float32", 13), ("float32", 20), ("float64", 17)]


def cases():
    """Name, module and format of each."""
    for dtype, opset in FORMATS:
        for module in MODULES:
            if not isinstance(module, nn.CELU) or (dtype, opset > 11) == ("float32", True):
                name = str(module).replace("negative_slope=", "").replace("num_parameters=1", "")
                yield f"{name}/{dtype}/{opset}", module, getattr(torch, dtype), opset


def main():
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    rows = 2 * torch.randn(5, 2, 3, dtype=torch.float64)
    names, files, outputs = [], [], []
    for name, module, dtype, opset in cases():
        chain = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), module, nn.Linear(4, 3))
        chain = chain.to(dtype).eval()
        with torch.no_grad():
            for value in [*module.parameters(), *module.buffers()]:
                if value.is_floating_point():
                    value.uniform_(0.5, 1.5)
        file = io.BytesIO()
        options = {"input_names": ["rows"], "dynamic_axes": {"rows": {0: "n"}}}
        torch.onnx.export(
            chain, (rows.to(dtype),), file, dynamo=False, opset_version=opset, **options
        )
        names.append(name)
        files.append(file.getvalue())
        outputs.append(chain(rows.to(dtype)).detach().double().numpy())
    np.savez_compressed(
        Path(__file__).with_name("torch_onnx.npz"),
        names=names,
        files=np.frombuffer(b"".join(files), np.uint8),
        ends=np.cumsum([len(file) for file in files]),
        rows=rows.flatten(1).numpy(),
        outputs=outputs,
    )


if __name__ == "__main__":
    main()
