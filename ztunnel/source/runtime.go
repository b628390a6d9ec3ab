// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
)

// ownKernels are runtimes whose sandboxes have a network stack of their own: a
// virtual machine's, or one in user space. Their apps' sockets are not the
// node's, so that nothing can be steered.
var ownKernels = []string{"kata", "runsc", "gvisor", "firecracker", "cloudhypervisor", "dragonball", "quark", "urunc", "runhcs"}

// unsteerable says why connections of a pod cannot be steered although its
// labels want it in the mesh; "" if they can.
func unsteerable(pod *corev1.Pod, classes []*nodev1.RuntimeClass) string {
	if pod.Spec.RuntimeClassName == nil {
		return ""
	}
	name := *pod.Spec.RuntimeClassName
	runtime := name
	for _, c := range classes {
		if c.Name == name && hasOwnKernel(c.Handler) {
			runtime = c.Handler
		}
	}
	if !hasOwnKernel(runtime) {
		return ""
	}
	return fmt.Sprintf("runtimeClassName %q (%s): its sandbox has a network stack of its own, which cannot be steered", name, runtime)
}

// hasOwnKernel goes by the words in the name of a runtime, as in kata-qemu or
// io.containerd.runsc.v1.
func hasOwnKernel(runtime string) bool {
	words := strings.FieldsFunc(strings.ToLower(runtime), func(r rune) bool { return strings.ContainsRune("-_.", r) })
	return slices.ContainsFunc(words, func(word string) bool {
		return slices.ContainsFunc(ownKernels, func(known string) bool { return strings.HasPrefix(word, known) })
	})
}
