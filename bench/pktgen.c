/* SPDX-License-Identifier: Apache-2.0
 *
 * Sends Ethernet frames from one netdev for a while and prints what it cost, as JSON.
 *
 *	pktgen IFNAME DST-MAC SRC-MAC SIZE|imix SECONDS CPU
 *
 * Frames go through AF_PACKET in batches with the qdisc bypassed, so that what is measured is the
 * path behind the netdev and not the generator. SIZE is without FCS, as everywhere in vfd; "imix"
 * is 7 × 60, 4 × 590, 1 × 1514 bytes. The CPU time is this process's own: frames that stay on the
 * CPU (veth) are received in its time, too.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/ether.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 60		/* a multiple of the 12 frames of one IMIX cycle */
#define MAX_FRAME 1514

static const int imix[12] = { 60, 590, 60, 60, 590, 60, 1514, 60, 590, 60, 590, 60 };

static double seconds(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void die(const char *what)
{
	fprintf(stderr, "pktgen: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* A UDP datagram with a right header checksum, so that no receiver has reason to treat it apart. */
static void fill(unsigned char *frame, int size, const char *dst, const char *src)
{
	unsigned char *ip = frame + ETH_HLEN;
	int length = size - ETH_HLEN;
	unsigned int sum = 0;

	memset(frame, 0, size);
	memcpy(frame, ether_aton(dst), ETH_ALEN);
	memcpy(frame + ETH_ALEN, ether_aton(src), ETH_ALEN);
	frame[12] = 0x08;
	ip[0] = 0x45;
	ip[2] = length >> 8;
	ip[3] = length;
	ip[8] = 64;
	ip[9] = 17;
	memcpy(ip + 12, "\x0a\x09\x00\x01\x0a\x09\x00\x02", 8);
	for (int i = 0; i < 20; i += 2)
		sum += ip[i] << 8 | ip[i + 1];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = ~(sum + (sum >> 16));
	ip[10] = sum >> 8;
	ip[11] = sum;
	memcpy(ip + 20, "\x13\x88\x13\x89", 4);
	ip[24] = (length - 20) >> 8;
	ip[25] = length - 20;
}

int main(int argc, char **argv)
{
	static unsigned char frames[BATCH][MAX_FRAME];
	static struct mmsghdr messages[BATCH];
	static struct iovec parts[BATCH];
	struct sockaddr_ll to = { .sll_family = AF_PACKET };
	int fd, one = 1, buffer = 8 << 20;
	double length, wall, cpu, now;
	unsigned long sent = 0;
	cpu_set_t cpus;

	if (argc != 7) {
		fprintf(stderr, "usage: pktgen IFNAME DST-MAC SRC-MAC SIZE|imix SECONDS CPU\n");
		return 2;
	}
	CPU_ZERO(&cpus);
	CPU_SET(atoi(argv[6]), &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		die("sched_setaffinity");
	to.sll_ifindex = if_nametoindex(argv[1]);
	if (!to.sll_ifindex)
		die(argv[1]);
	fd = socket(AF_PACKET, SOCK_RAW, 0);
	if (fd < 0 || bind(fd, (void *)&to, sizeof(to)))
		die("AF_PACKET");
	if (setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof(one)))
		die("PACKET_QDISC_BYPASS");
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof(buffer));

	for (int i = 0; i < BATCH; i++) {
		int size = strcmp(argv[4], "imix") ? atoi(argv[4]) : imix[i % 12];

		if (size < 60 || size > MAX_FRAME) {
			fprintf(stderr, "pktgen: %s: sizes are 60 ... %d\n", argv[4], MAX_FRAME);
			return 2;
		}
		fill(frames[i], size, argv[2], argv[3]);
		parts[i] = (struct iovec){ frames[i], size };
		messages[i].msg_hdr.msg_iov = &parts[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}

	length = atof(argv[5]);
	wall = seconds(CLOCK_MONOTONIC);
	cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
	do {
		int n = sendmmsg(fd, messages, BATCH, 0);

		if (n > 0)
			sent += n;
		now = seconds(CLOCK_MONOTONIC);
	} while (now - wall < length);
	printf("{\"sent\": %lu, \"wall\": %.6f, \"cpu\": %.6f}\n", sent, now - wall,
	       seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu);
	return 0;
}
