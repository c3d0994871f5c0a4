// The one place where volk itself is compiled.
#define VOLK_IMPLEMENTATION
#include <volk.h>
