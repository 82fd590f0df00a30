#include "kernels/cpu/team.h"
