# plop-lora on a CPU. Build: docker build -t plop-lora .
# Use: docker run --rm -v "$PWD:/data" plop-lora score MODEL --data rows.jsonl -o scores.json
FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE CHANGELOG.md SECURITY.md CITATION.cff ./
COPY src src
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim
# torch first and from its index of builds without CUDA: the package index has one with it, which
# makes the image several gigabytes larger.
RUN python -m pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "torch>=2.8"
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    python -m pip install --no-cache-dir /wheels/*.whl
RUN useradd --create-home --uid 1000 plop && mkdir /data && chown plop:plop /data
USER 1000
WORKDIR /data
ENTRYPOINT ["plop"]
CMD ["--help"]
