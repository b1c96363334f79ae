# The course in a container, for a class or for grading:
#   docker run --rm -p 8888:8888 $(docker build -q .)     prints the address to open, with its token
# On Linux pip's own torch brings gigabytes of CUDA. With the CPU index of PyTorch's install page it stays small:
#   docker build --build-arg PIP_EXTRA_INDEX_URL=… -t mvae . && docker run --rm -p 8888:8888 mvae
FROM python:3.11-slim-bookworm

RUN apt-get update && apt-get install -y --no-install-recommends make git && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home learner
WORKDIR /course
RUN chown learner /course
USER learner

# The environment first, so that a changed lesson does not install it again.
ARG PIP_EXTRA_INDEX_URL=
COPY --chown=learner pyproject.toml constraints.txt Makefile README.md LICENSE ./
COPY --chown=learner mvae mvae
RUN make setup && rm -rf ~/.cache/pip
COPY --chown=learner . .
RUN touch .venv/.ready && make data

EXPOSE 8888
CMD ["make", "lab", "LAB=--ip=0.0.0.0 --port=8888 --no-browser"]
