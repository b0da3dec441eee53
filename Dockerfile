# The production image. It contains no compiler and no development tools, and it does not run as root.
# The root file system may be read-only: files that are written at run time go to /dev/shm.

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/venv
COPY requirements/app.txt /tmp/app.txt
# Install wheels only. A source package would need a compiler in this stage and its libraries in the
# next one.
RUN python -m pip --python /opt/venv/bin/python install \
    --require-hashes --only-binary=:all: -r /tmp/app.txt
WORKDIR /srv
COPY pyproject.toml gunicorn_config.py ./
COPY migrations migrations
COPY app app
COPY coherent_cache coherent_cache
COPY graceful_gunicorn graceful_gunicorn
# Compile here, because the root file system may be read-only later. chmod makes the files readable for
# the service's user, whatever the umask was when the repository was cloned.
RUN /opt/venv/bin/python -m compileall -q app coherent_cache graceful_gunicorn migrations gunicorn_config.py && chmod -R a+rX .

FROM python:3.13-slim
# Kubernetes can only check `runAsNonRoot` if USER below is a number.
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /nonexistent app
# A new volume that is mounted here belongs to the service's user.
RUN install --directory --owner=app --group=app --mode=700 /var/lib/objects
COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv /srv
WORKDIR /srv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TMPDIR=/dev/shm \
    ENVIRONMENT=production \
    SERVER_HOST=0.0.0.0
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=3s --retries=3 --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request as u; e = os.environ.get; u.urlopen(f'http://127.0.0.1:{e(\"SERVER_PORT\") or e(\"PORT\") or 8000}/readyz', timeout=2)"]
CMD ["python", "-m", "app.serve"]
