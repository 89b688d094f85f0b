/* Everything whose result at a place depends on that place alone: the CPU's sources, a thread for each place. */
#include "lane.h"

#include "activations.c"
#include "elementwise.c"
#include "exact_sum.c"
#include "optimisers.c"
#include "philox.c"
#include "probe.c"
