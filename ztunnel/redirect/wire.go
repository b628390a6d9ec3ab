// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"encoding/binary"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// wireAddr returns addr as the programs know it: 16 bytes in network order,
// IPv4 as ::ffff:a.b.c.d.
func wireAddr(addr netip.Addr) (w meshAddr) {
	b := addr.As16()
	for i := range w.Word {
		w.Word[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

func goAddr(w meshAddr) netip.Addr {
	var b [16]byte
	for i, word := range w.Word {
		binary.NativeEndian.PutUint32(b[4*i:], word)
	}
	return netip.AddrFrom16(b).Unmap()
}

// wirePort returns port in network order, and the other way round.
func wirePort(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}

func wireFlow(cookie netns.Cookie, src, dst netip.AddrPort) meshFlow {
	return meshFlow{
		Netns: uint64(cookie),
		Src:   wireAddr(src.Addr()),
		Dst:   wireAddr(dst.Addr()),
		Sport: wirePort(src.Port()),
		Dport: wirePort(dst.Port()),
	}
}

func wireEndpoint(at netip.AddrPort) meshEndpoint {
	return meshEndpoint{Addr: wireAddr(at.Addr()), Port: wirePort(at.Port())}
}

// wireCIDR returns the key of a prefix of either family in a trie of 128 bits.
func wireCIDR(p netip.Prefix) meshCidr {
	p = p.Masked()
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return meshCidr{Prefixlen: uint32(bits), Addr: wireAddr(p.Addr())}
}

func goCIDR(c meshCidr) netip.Prefix {
	addr, bits := goAddr(c.Addr), int(c.Prefixlen)
	if addr.Is4() {
		bits -= 96
	}
	return netip.PrefixFrom(addr, bits)
}

// put, lookup and remove are ebpf.Map's for each connection: from what is already laid
// out as the programs have it, and by a call that Go's monitor does not see (package
// socket). V is of the size of the map's values, and has no per-CPU copies.
func put[K, V any](m *ebpf.Map, key *K, value *V) error {
	return element(unix.BPF_MAP_UPDATE_ELEM, m, unsafe.Pointer(key), unsafe.Pointer(value))
}

func lookup[K, V any](m *ebpf.Map, key *K, value *V) error {
	return element(unix.BPF_MAP_LOOKUP_ELEM, m, unsafe.Pointer(key), unsafe.Pointer(value))
}

func remove[K any](m *ebpf.Map, key *K) error {
	return ignoreMissing(element(unix.BPF_MAP_DELETE_ELEM, m, unsafe.Pointer(key), nil))
}

var _ [unsafe.Sizeof(uintptr(0)) - 8]byte // ztunnel is for 64-bit machines: see element

// element is bpf(2) for one element of a map.
func element(call uintptr, m *ebpf.Map, key, value unsafe.Pointer) error {
	attr := struct {
		fd         uint32
		_          uint32
		key, value unsafe.Pointer // 64 bits each
		flags      uint64
	}{fd: uint32(m.FD()), key: key, value: value}
	_, _, errno := syscall.RawSyscall(unix.SYS_BPF, call, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(m)
	switch errno {
	case 0:
		return nil
	case unix.ENOENT:
		return ebpf.ErrKeyNotExist
	}
	return os.NewSyscallError("bpf", errno)
}
