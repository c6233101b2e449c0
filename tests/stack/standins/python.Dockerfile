# Stands in for python:3.13-slim-trixie: Debian trixie with Debian's Python 3.13, found under /usr/local as in the official image.
FROM slotstream-standin/debian
RUN python3 -m venv /usr/local
CMD ["python"]
