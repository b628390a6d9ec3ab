// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// joint is the network between clusters that are joined.
const joint = "joint"

// Join routes between the nodes and pods of two running clusters of different sites, as two
// data centres that are joined: no address is translated, and Services are not reached.
func Join(a, b Config) error {
	ends := [2]Config{a, b}
	var pids [2]int
	for i, c := range ends {
		pid, err := holder(filepath.Join(c.dir(), alive))
		if err != nil || pid == 0 {
			return errors.Join(err, fmt.Errorf("cluster %s is not up", c.Name))
		}
		pids[i] = pid
	}
	out, err := exec.Command("ip", "link", "add", joint, "netns", strconv.Itoa(pids[0]), "type", "veth",
		"peer", "name", joint, "netns", strconv.Itoa(pids[1])).CombinedOutput()
	if err != nil {
		return fmt.Errorf("join %s and %s: %w\n%s", a.Name, b.Name, err, out)
	}
	for i := range ends {
		if err := lead(pids[i], i, ends[1-i].Site); err != nil {
			return err
		}
	}
	return nil
}

// lead has the netns of a process, a supervisor's, forward to a site over its end of joint.
func lead(pid, end, site int) error {
	own := [2]string{fmt.Sprintf("192.168.76.%d/24", 1+end), fmt.Sprintf("fd00:76::%d/64", 1+end)}
	over := [2]string{fmt.Sprintf("192.168.76.%d", 2-end), fmt.Sprintf("fd00:76::%d", 2-end)}
	steps := [][]string{
		{"sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"},
		{"ip", "link", "set", joint, "up"},
	}
	v4, v6 := fmt.Sprintf("192.168.%d.0/24,10.%d.0.0/16", 77+site, 244+site), fmt.Sprintf("fd00:%d::/64,fd00:10:%d::/48", 77+site, 244+site)
	for i, networks := range []string{v4, v6} {
		steps = append(steps, []string{"ip", "address", "add", own[i], "dev", joint})
		if i == 1 {
			steps[len(steps)-1] = append(steps[len(steps)-1], "nodad")
		}
		for network := range strings.SplitSeq(networks, ",") {
			steps = append(steps, []string{"ip", "route", "add", network, "via", over[i]})
		}
	}
	for _, step := range steps {
		cmd := exec.Command("nsenter", append([]string{"--net", "--target=" + strconv.Itoa(pid), "--"}, step...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(step, " "), err, out)
		}
	}
	return nil
}
