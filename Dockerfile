# The image that launch/pod.sh starts on TPU hosts: docker build --tag "$IMAGE" . && docker push "$IMAGE"
FROM python:3.12-slim
WORKDIR /llasa
COPY requirements.txt requirements-nodeps.txt requirements-tpu.txt ./
RUN pip install --no-cache-dir --requirement requirements.txt --requirement requirements-tpu.txt \
 && pip install --no-cache-dir --no-deps --requirement requirements-nodeps.txt
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY configs configs
COPY llasa_jax llasa_jax
RUN pip install --no-cache-dir --no-deps .
CMD ["llasa", "--help"]
