@ SPDX-License-Identifier: Apache-2.0
@ The smallest firmware that U-Boot starts as it starts Linux. Comes up: says so and switches off. Does not: restarts.
	.syntax unified
	.arm
	.arch	armv7-a
	.arch_extension virt
	.globl	_start
_start:
#ifdef COMES_UP
	adr	r1, text
	ldr	r2, =0x09000000		@ the data register of virt's PL011
1:	ldrb	r0, [r1], #1
	cmp	r0, #0
	strbne	r0, [r2]
	bne	1b
	ldr	r0, =0x84000008		@ PSCI: SYSTEM_OFF
#else
	ldr	r0, =0x84000009		@ PSCI: SYSTEM_RESET
#endif
	hvc	#0
2:	b	2b
	.pool
text:	.asciz	"gateway firmware is up\n"
