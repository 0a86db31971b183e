# Exercise 9.2: a transmit ring. send() returns False when there is no room; the frame is then offered again later.
SIZE = 4
ring = [""] * SIZE
head = tail = 0  # the card's and the driver's
wire = []


def send(frame):
    """The driver."""
    global tail
    if (tail + 1) % SIZE == head:
        return False
    ring[tail] = frame
    tail = (tail + 1) % SIZE
    return True


def card():
    """Sends all that is the card's, and moves the head."""
    global head
    while head != tail:
        wire.append(ring[head])
        head = (head + 1) % SIZE


frames = [f"frame{number}" for number in range(10)]
while frames:
    while frames and send(frames[0]):
        del frames[0]
    card()
print(*wire)
