/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */

/* <linux/types.h> asks for <asm/types.h>, which distributions keep in a
 * directory named by the host's architecture. BPF is none of them.
 */
#include <asm-generic/types.h>
