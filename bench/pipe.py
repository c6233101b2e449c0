"""One measured run of a raw pipe over a topic that is full already: consume, produce the same bytes, a transaction each 100 ms.

The most that the client allows in Python: no codec, no model, no state. Prints one JSON line, as bench.one does.
"""

import argparse
import json
import time
import uuid

from confluent_kafka import Consumer, Producer, TopicPartition

from bench.load import PARTITIONS
from bench.rates import Rate

COMMIT_S = 0.1
RECORDS_MAX = 4096


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--records", type=int, required=True)
    arguments = parser.parse_args()
    name = uuid.uuid4().hex[:8]
    kafka = {"bootstrap.servers": arguments.bootstrap}
    consumer = Consumer({**kafka, "group.id": name, "enable.auto.commit": False, "fetch.queue.backoff.ms": 5})
    consumer.assign([TopicPartition(arguments.topic, partition, 0) for partition in range(PARTITIONS)])
    producer = Producer({**kafka, "transactional.id": name, "linger.ms": 5, "queue.buffering.max.messages": 500_000})
    producer.init_transactions()
    rate, done, target = Rate(arguments.records), 0, f"{arguments.topic}.out"
    produce = producer.produce
    while done < arguments.records:
        producer.begin_transaction()
        begun_s, offsets = time.monotonic(), dict[int, int]()
        while time.monotonic() - begun_s < COMMIT_S and done < arguments.records:
            for message in consumer.consume(RECORDS_MAX, 0.02):
                partition = message.partition()
                while True:
                    try:
                        produce(target, message.value(), message.key(), partition)
                        break
                    except BufferError:
                        producer.poll(0.01)
                offsets[partition] = message.offset() + 1
                done += 1
            producer.poll(0)
        positions = [TopicPartition(arguments.topic, partition, offset) for partition, offset in offsets.items()]
        producer.send_offsets_to_transaction(positions, consumer.consumer_group_metadata())
        producer.commit_transaction()
        rate.note(done)
    print(json.dumps(rate.figures()))
    consumer.close()


if __name__ == "__main__":
    main()
