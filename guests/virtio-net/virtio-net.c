// virtio-net: a network driver from nothing. driver.h has the device and its two queues; include/net.h makes and reads the
// frames; include/net-guest.h is what happens.

#include "driver.h"
#include "net-guest.h"
