"""The service as a program that looks at its topics each second and waits GRACE seconds for one that is gone:

`python looks_often.py GRACE run ...`
"""

import sys

from processor import cli
from processor.kafka import topic_watch

if __name__ == "__main__":
    topic_watch.EVERY_S, topic_watch.AGAIN_S, topic_watch.SOON_S = 1.0, 0.2, 0.2
    topic_watch.GRACE_S = float(sys.argv[1])
    sys.exit(cli.main(sys.argv[2:]))
