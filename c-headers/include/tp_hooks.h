/* The functions of libc that the shim takes over: TP_HOOK(name, family, why).
 *
 * The shim exports these names and no other; a test compares this list with the shared object's symbols. Include
 * this file with TP_HOOK defined.
 *
 * SPDX-License-Identifier: Apache-2.0 OR MIT
 */
#ifndef TP_HOOK
#error "define TP_HOOK(name, family, why) before including tp_hooks.h"
#endif

TP_HOOK(connect, connect, "TCP goes by the gate, UDP by a relay; what is not carried is refused")
TP_HOOK(__connect, connect, "the same function, as some libraries call it")

TP_HOOK(sendto, send, "datagrams go by a relay, TCP fast open by the gate; what is not carried is refused")
TP_HOOK(sendmsg, send, "as sendto")
TP_HOOK(sendmmsg, send, "as sendto")

TP_HOOK(recvfrom, receive, "a datagram's source is the far end, not the relay")
TP_HOOK(__recvfrom_chk, receive, "as recvfrom; _FORTIFY_SOURCE calls it")
TP_HOOK(recvmsg, receive, "as recvfrom")
TP_HOOK(recvmmsg, receive, "as recvfrom")

TP_HOOK(socket, socket, "MPTCP becomes TCP, which the gate can open")
TP_HOOK(getpeername, socket, "the address that was asked for, not the park's or the relay's")
TP_HOOK(getsockname, sockname, "of a socket that is connected to the cluster: the pod's address, not loopback")
TP_HOOK(getsockopt, socket, "SO_ERROR: the far end's errno")
TP_HOOK(setsockopt, socket, "options with which a socket would not reach its park")

TP_HOOK(getaddrinfo, addrinfo, "names are the pod's")
TP_HOOK(getaddrinfo_a, addrinfo, "libc's own goes past getaddrinfo's hook")
TP_HOOK(gai_suspend, addrinfo, "waits for requests of our getaddrinfo_a")
TP_HOOK(gai_cancel, addrinfo, "as gai_suspend")
TP_HOOK(__nss_configure_lookup, addrinfo, "libc's own lookups of hosts and networks stay with files")
TP_HOOK(getnameinfo, nameinfo, "names of addresses are the pod's")

TP_HOOK(gethostbyname, hostent, "names are the pod's, in the older way")
TP_HOOK(gethostbyname_r, hostent, "as gethostbyname")
TP_HOOK(gethostbyname2, hostent, "as gethostbyname")
TP_HOOK(gethostbyname2_r, hostent, "as gethostbyname")
TP_HOOK(gethostbyaddr, hostent, "names of addresses, in the older way")
TP_HOOK(gethostbyaddr_r, hostent, "as gethostbyaddr")

TP_HOOK(__res_state, resolv, "_res has the pod's settings")
TP_HOOK(__res_init, resolv, "res_init: as __res_state")
TP_HOOK(__res_ninit, resolv, "res_ninit: as __res_state")
TP_HOOK(res_query, resolv, "libc sends to stand-ins for its nameservers")
TP_HOOK(res_nquery, resolv, "as res_query")
TP_HOOK(__res_query, resolv, "as res_query")
TP_HOOK(__res_nquery, resolv, "as res_query")
TP_HOOK(res_search, resolv, "as res_query")
TP_HOOK(res_nsearch, resolv, "as res_query")
TP_HOOK(__res_search, resolv, "as res_query")
TP_HOOK(__res_nsearch, resolv, "as res_query")
TP_HOOK(res_querydomain, resolv, "as res_query")
TP_HOOK(res_nquerydomain, resolv, "as res_query")
TP_HOOK(__res_querydomain, resolv, "as res_query")
TP_HOOK(__res_nquerydomain, resolv, "as res_query")
TP_HOOK(res_send, resolv, "as res_query")
TP_HOOK(res_nsend, resolv, "as res_query")
TP_HOOK(__res_send, resolv, "as res_query")
TP_HOOK(__res_nsend, resolv, "as res_query")

TP_HOOK(open, files, "resolv.conf and hosts are the pod's")
TP_HOOK(open64, files, "as open")
TP_HOOK(__open, files, "as open")
TP_HOOK(__open64, files, "as open")
TP_HOOK(__open_2, files, "as open")
TP_HOOK(__open64_2, files, "as open")
TP_HOOK(openat, files, "as open")
TP_HOOK(openat64, files, "as open")
TP_HOOK(__openat_2, files, "as open")
TP_HOOK(__openat64_2, files, "as open")
TP_HOOK(fopen, files, "as open")
TP_HOOK(fopen64, files, "as open")

TP_HOOK(execve, exec, "the child keeps the shim, or is not started")
TP_HOOK(execv, exec, "as execve")
TP_HOOK(execvp, exec, "as execve")
TP_HOOK(execvpe, exec, "as execve")
TP_HOOK(execveat, exec, "as execve")
TP_HOOK(fexecve, exec, "as execve")
TP_HOOK(execl, exec, "as execve")
TP_HOOK(execlp, exec, "as execve")
TP_HOOK(execle, exec, "as execve")
TP_HOOK(posix_spawn, exec, "as execve; libc's own does not call it")
TP_HOOK(posix_spawnp, exec, "as posix_spawn")
TP_HOOK(pidfd_spawn, exec, "as posix_spawn, in newer libcs")
TP_HOOK(pidfd_spawnp, exec, "as posix_spawn, in newer libcs")
TP_HOOK(system, exec, "libc starts a shell in it, with an environment that the program may have emptied")
TP_HOOK(popen, exec, "as system")
TP_HOOK(_IO_popen, exec, "the same function, as some libraries call it")
TP_HOOK(_IO_proc_open, exec, "its half, as some libraries call it")
TP_HOOK(wordexp, exec, "as system, for command substitutions")

TP_HOOK(dlopen, loader, "a library bound to libc by RTLD_DEEPBIND would call past every hook: without that flag")
TP_HOOK(dlmopen, loader, "a namespace of its own has another libc and no preload: refused")
TP_HOOK(dlsym, loader, "a function out of libc's own handle is the hook of it")

TP_HOOK(__asan_default_options, sanitizer, "AddressSanitizer accepts a library that is loaded before it")
