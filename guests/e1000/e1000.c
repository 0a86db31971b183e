// e1000: a network driver from nothing. driver.h has the card and its rings; include/net.h makes and reads the frames;
// include/net-guest.h is what happens.

#include "driver.h"
#include "net-guest.h"
