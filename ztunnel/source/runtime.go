// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"slices"
	"strings"

	nodev1 "k8s.io/api/node/v1"
)

// ownKernels are runtimes whose sandboxes have a network stack of their own: a
// virtual machine's, or one in user space. Their apps' sockets are not the
// node's, so that nothing can be steered.
var ownKernels = []string{"kata", "runsc", "gvisor", "firecracker", "cloudhypervisor", "dragonball", "quark", "urunc", "runhcs"}

// Why a pod is not in the mesh although its labels say so.
const (
	inHostNetwork = "hostNetwork: it is in the network namespace of its node, which is never steered"
	hasSidecar    = "it has a sidecar (annotation " + istioSidecar + "), which carries its connections"
)

// unsteerable says why a pod that its labels want in the mesh cannot be; "" if it can.
func (e podEntry) unsteerable(hostNetwork bool, classes map[string]*nodev1.RuntimeClass) string {
	switch {
	case hostNetwork:
		return inHostNetwork
	case e.sidecar:
		return hasSidecar
	}
	return stackOfItsOwn(e.place.Value().runtimeClass, classes)
}

// stackOfItsOwn says why connections of a pod of that RuntimeClass cannot be steered;
// "" if they can.
func stackOfItsOwn(class string, classes map[string]*nodev1.RuntimeClass) string {
	runtime := class
	if c := classes[class]; c != nil && hasOwnKernel(c.Handler) {
		runtime = c.Handler
	}
	if !hasOwnKernel(runtime) {
		return ""
	}
	return fmt.Sprintf("runtimeClassName %q (%s): its sandbox has a network stack of its own, which cannot be steered", class, runtime)
}

// hasOwnKernel goes by the words in the name of a runtime, as in kata-qemu or
// io.containerd.runsc.v1.
func hasOwnKernel(runtime string) bool {
	words := strings.FieldsFunc(strings.ToLower(runtime), func(r rune) bool { return strings.ContainsRune("-_.", r) })
	return slices.ContainsFunc(words, func(word string) bool {
		return slices.ContainsFunc(ownKernels, func(known string) bool { return strings.HasPrefix(word, known) })
	})
}
