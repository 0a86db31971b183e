// bench-e1000: frames as fast as the driver of e1000 makes them, or pings one after another; include/net-bench.h has the options.

#include "../e1000/driver.h"
#include "net-bench.h"
