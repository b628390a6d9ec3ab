// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* The one object: all programs and the maps they share. Each direction has a
 * file of its own, which is not compiled by itself.
 */
#include "mesh.h"

#include "outbound.bpf.c"

#include "inbound.bpf.c"

#include "forward.bpf.c"

char _license[] SEC("license") = "Dual BSD/GPL";
