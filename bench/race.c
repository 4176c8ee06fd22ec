/* SPDX-License-Identifier: Apache-2.0
 *
 * Cycles through lanes in short slices on one CPU, and prints what each slice cost.
 *
 *	race SIZE|imix|tcp|rtt CPU KSOFTIRQD-PID SLICE-SECONDS ROUNDS LANE...
 *
 * One process has all lanes open and takes them in turn, a slice each, every other round backwards:
 * whatever befalls the machine for longer than some milliseconds befalls all of them. A slice begins
 * with work that is not measured, so that caches hold the lane's code and tables.
 *
 * A lane of frames is NETNS,NETDEV,SOURCE-MAC,DESTINATION-MAC[,DESTINATION-MAC...]; they leave through
 * AF_PACKET in batches with the qdisc bypassed. SIZE is without FCS, as everywhere in vfd; "imix" is
 * 7 x 60, 4 x 590, 1 x 1514 bytes. A lane of "tcp" or "rtt" is NETNS,ADDRESS,NETNS,ADDRESS.
 *
 * CPU time is this process's, in which frames that stay on the CPU are received, too, and that of the
 * CPU's own ksoftirqd. Lines of output:
 *
 *	slice LANE VALUE...	ns of CPU a frame; ns of CPU a KiB; ns of each round trip
 *	sent LANE FRAMES	all of them, measured or not
 *	cpu SECONDS SECONDS	CPU time counted, and time that the process was on the CPU
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/ether.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 60		/* a multiple of the 12 frames of one IMIX cycle */
#define MAX_FRAME 1514
#define FIELDS 64
#define TCP_BUFFER (128 << 10)
#define TCP_WINDOW (256 << 10)	/* one that grows has each lane at another size */
#define RTT_BYTES 32

static const int imix[12] = { 60, 590, 60, 60, 590, 60, 1514, 60, 590, 60, 590, 60 };

struct lane {
	int near, far;		/* sockets at its two ends; frames: at the near one */
	struct mmsghdr messages[BATCH];
	struct iovec parts[BATCH];
	unsigned char frames[BATCH][MAX_FRAME];
	unsigned long sent;
	unsigned long arrived;	/* bytes of TCP, written by the lane's reader */
};

struct kind {
	void (*open)(struct lane *lane, char **fields, int count, const char *what);
	void (*warm)(struct lane *lane);
	void (*slice)(struct lane *lane, double seconds);	/* prints its values */
};

static int softirq = -1;		/* ksoftirqd's schedstat */

static void die(const char *what)
{
	fprintf(stderr, "race: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double seconds(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* The first two numbers of a schedstat, as seconds: on a CPU, and waiting for one. */
static double schedstat(int fd, int which)
{
	char text[128] = "";
	double number[2] = { 0, 0 };

	if (pread(fd, text, sizeof(text) - 1, 0) < 0)
		die("schedstat");
	sscanf(text, "%lf %lf", &number[0], &number[1]);
	return number[which] / 1e9;
}

static double cpu(void)
{
	return seconds(CLOCK_PROCESS_CPUTIME_ID) + schedstat(softirq, 0);
}

static void enter(const char *netns)
{
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "/run/netns/%s", netns);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET))
		die(path);
	close(fd);
}

/* Frames */

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

static void frames_open(struct lane *lane, char **fields, int count, const char *what)
{
	struct sockaddr_ll to = { .sll_family = AF_PACKET };
	int one = 1, buffer = 8 << 20;

	if (count < 4)
		die("a lane of frames has four fields or more");
	enter(fields[0]);
	to.sll_ifindex = if_nametoindex(fields[1]);
	if (!to.sll_ifindex)
		die(fields[1]);
	lane->near = socket(AF_PACKET, SOCK_RAW, 0);
	if (lane->near < 0 || bind(lane->near, (void *)&to, sizeof(to)))
		die("AF_PACKET");
	if (setsockopt(lane->near, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof(one)))
		die("PACKET_QDISC_BYPASS");
	setsockopt(lane->near, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof(buffer));
	for (int i = 0; i < BATCH; i++) {
		int size = strcmp(what, "imix") ? atoi(what) : imix[i % 12];

		if (size < 60 || size > MAX_FRAME) {
			fprintf(stderr, "race: %s: sizes are 60 ... %d\n", what, MAX_FRAME);
			exit(2);
		}
		fill(lane->frames[i], size, fields[3 + i % (count - 3)], fields[2]);
		lane->parts[i] = (struct iovec){ lane->frames[i], size };
		lane->messages[i].msg_hdr.msg_iov = &lane->parts[i];
		lane->messages[i].msg_hdr.msg_iovlen = 1;
	}
}

static int frames_send(struct lane *lane)
{
	int n = sendmmsg(lane->near, lane->messages, BATCH, 0);

	if (n < 0 && errno != ENOBUFS)
		die("sendmmsg");
	if (n < 0) {		/* the CPU's backlog is full: ksoftirqd's turn */
		sched_yield();
		return 0;
	}
	lane->sent += n;
	return n;
}

static void frames_warm(struct lane *lane)
{
	for (int i = 0; i < 20; i++)
		frames_send(lane);
}

static void frames_slice(struct lane *lane, double length)
{
	double end = seconds(CLOCK_MONOTONIC) + length, before = cpu();
	unsigned long sent = 0;

	do
		sent += frames_send(lane);
	while (seconds(CLOCK_MONOTONIC) < end);
	if (!sent)
		die("no frame left");
	printf(" %.2f", (cpu() - before) * 1e9 / sent);
}

/* TCP: writer and reader share the CPU, so that all that a byte costs is in this process's time. */

static struct sockaddr_in address(const char *text, int port)
{
	struct sockaddr_in it = { .sin_family = AF_INET, .sin_port = htons(port) };

	if (!inet_aton(text, &it.sin_addr))
		die(text);
	return it;
}

static void *tcp_read(void *data)
{
	static char buffer[TCP_BUFFER];
	struct lane *lane = data;
	ssize_t n;

	while ((n = recv(lane->far, buffer, sizeof(buffer), 0)) > 0)
		__atomic_add_fetch(&lane->arrived, n, __ATOMIC_RELEASE);
	return NULL;
}

static void tcp_open(struct lane *lane, char **fields, int count, const char *what)
{
	struct sockaddr_in to;
	struct timeval patience = { .tv_sec = 3 };
	pthread_t reader;
	int listener, one = 1, window = TCP_WINDOW;

	(void)what;
	if (count != 4)
		die("a lane of TCP has four fields");
	to = address(fields[3], 5201);
	enter(fields[2]);
	listener = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(listener, SOL_SOCKET, SO_RCVBUFFORCE, &window, sizeof(window));
	if (bind(listener, (void *)&to, sizeof(to)) || listen(listener, 1))
		die("listen");
	enter(fields[0]);
	lane->near = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(lane->near, SOL_SOCKET, SO_SNDBUFFORCE, &window, sizeof(window));
	setsockopt(lane->near, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (connect(lane->near, (void *)&to, sizeof(to)))
		die("connect");
	lane->far = accept(listener, NULL, NULL);
	close(listener);
	if (pthread_create(&reader, NULL, tcp_read, lane))
		die("pthread_create");
}

static void tcp_send(struct lane *lane)
{
	static char buffer[TCP_BUFFER];
	ssize_t n = send(lane->near, buffer, sizeof(buffer), 0);

	if (n <= 0)
		die("TCP");
	lane->sent += n;
}

static void tcp_drain(struct lane *lane)
{
	struct timespec pause = { .tv_nsec = 20000 };
	double end = seconds(CLOCK_MONOTONIC) + 3;

	while (__atomic_load_n(&lane->arrived, __ATOMIC_ACQUIRE) < lane->sent) {
		if (seconds(CLOCK_MONOTONIC) > end) {
			errno = ETIMEDOUT;
			die("TCP");
		}
		nanosleep(&pause, NULL);
	}
}

static void tcp_warm(struct lane *lane)
{
	for (int i = 0; i < 10; i++)
		tcp_send(lane);
	tcp_drain(lane);
}

static void tcp_slice(struct lane *lane, double length)
{
	double end = seconds(CLOCK_MONOTONIC) + length, before = cpu();
	unsigned long sent = lane->sent;

	do
		tcp_send(lane);
	while (seconds(CLOCK_MONOTONIC) < end);
	tcp_drain(lane);
	printf(" %.3f", (cpu() - before) * 1e9 / (lane->sent - sent) * 1024);
}

/* Round trips: one thread has both ends, so that no scheduler's delay is in them. */

static int rtt_socket(const char *netns, const char *own, int port, const char *peer, int to)
{
	struct sockaddr_in here = address(own, port), there = address(peer, to);
	struct timeval patience = { .tv_sec = 1 };
	int fd;

	enter(netns);
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (fd < 0 || bind(fd, (void *)&here, sizeof(here)) ||
	    connect(fd, (void *)&there, sizeof(there)))
		die("UDP");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

static void rtt_open(struct lane *lane, char **fields, int count, const char *what)
{
	(void)what;
	if (count != 4)
		die("a lane of round trips has four fields");
	lane->near = rtt_socket(fields[0], fields[1], 7001, fields[3], 7002);
	lane->far = rtt_socket(fields[2], fields[3], 7002, fields[1], 7001);
}

static double rtt_once(struct lane *lane)
{
	char text[RTT_BYTES] = "";
	double began = seconds(CLOCK_MONOTONIC);

	if (send(lane->near, text, sizeof(text), 0) < 0 ||
	    recv(lane->far, text, sizeof(text), 0) < 0 ||
	    send(lane->far, text, sizeof(text), 0) < 0 ||
	    recv(lane->near, text, sizeof(text), 0) < 0)
		die("a round trip");
	return seconds(CLOCK_MONOTONIC) - began;
}

static void rtt_warm(struct lane *lane)
{
	for (int i = 0; i < 50; i++)
		rtt_once(lane);
}

static void rtt_slice(struct lane *lane, double length)
{
	double end = seconds(CLOCK_MONOTONIC) + length;

	do
		printf(" %.0f", rtt_once(lane) * 1e9);
	while (seconds(CLOCK_MONOTONIC) < end);
}

static const struct kind frames = { frames_open, frames_warm, frames_slice };
static const struct kind tcp = { tcp_open, tcp_warm, tcp_slice };
static const struct kind rtt = { rtt_open, rtt_warm, rtt_slice };

int main(int argc, char **argv)
{
	const struct kind *kind;
	int lanes = argc - 6, rounds, self;
	double length, counted = 0, present = 0;
	struct lane *lane;
	char path[64];
	cpu_set_t cpus;

	if (lanes < 1) {
		fprintf(stderr, "usage: race SIZE|imix|tcp|rtt CPU KSOFTIRQD-PID SECONDS ROUNDS LANE...\n");
		return 2;
	}
	kind = !strcmp(argv[1], "tcp") ? &tcp : !strcmp(argv[1], "rtt") ? &rtt : &frames;
	length = atof(argv[4]);
	rounds = atoi(argv[5]);
	CPU_ZERO(&cpus);
	CPU_SET(atoi(argv[2]), &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		die("sched_setaffinity");
	snprintf(path, sizeof(path), "/proc/%s/schedstat", argv[3]);
	softirq = open(path, O_RDONLY);
	self = open("/proc/self/schedstat", O_RDONLY);
	if (softirq < 0 || self < 0)
		die("schedstat");

	lane = calloc(lanes, sizeof(*lane));
	for (int i = 0; i < lanes; i++) {
		char *fields[FIELDS], *rest = argv[6 + i];
		int count = 0;

		while (count < FIELDS && rest)
			fields[count++] = strsep(&rest, ",");
		kind->open(&lane[i], fields, count, argv[1]);
	}
	for (int round = 0; round < rounds; round++) {
		for (int turn = 0; turn < lanes; turn++) {
			int which = round & 1 ? lanes - 1 - turn : turn;
			double began, waited, before;

			kind->warm(&lane[which]);
			began = seconds(CLOCK_MONOTONIC);
			waited = schedstat(self, 1);
			before = seconds(CLOCK_PROCESS_CPUTIME_ID);
			printf("slice %d", which);
			kind->slice(&lane[which], length);
			printf("\n");
			counted += seconds(CLOCK_PROCESS_CPUTIME_ID) - before;
			present += seconds(CLOCK_MONOTONIC) - began - (schedstat(self, 1) - waited);
		}
	}
	for (int i = 0; i < lanes; i++)
		printf("sent %d %lu\n", i, lane[i].sent);
	printf("cpu %.6f %.6f\n", counted, present);
	fflush(stdout);
	_exit(0);		/* readers of TCP are in recv */
}
