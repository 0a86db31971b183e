// bench-virtio-net: frames as fast as the driver of virtio-net makes them, or pings one after another; include/net-bench.h has the options.

#include "../virtio-net/driver.h"
#include "net-bench.h"
