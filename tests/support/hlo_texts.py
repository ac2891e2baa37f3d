"""Texts of optimized HLO modules, cut down from what the TPU compiler gives."""
# ruff: noqa: E501 - the lines of HLO are as long as they are

# Four micro-batches in a loop that the TPU compiler wrote without `known_trip_count`; the weights
# are in HBM, the accumulated gradient is in VMEM, and a slice of the batch is read in every turn.
LOOP = """\
HloModule jit_step, is_scheduled=true

%slice_batch (p0: bf16[4,512,256], p1: s32[]) -> bf16[512,256] {
  %p0 = bf16[4,512,256]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p1 = s32[]{:T(128)S(6)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %one_batch = bf16[1,512,256]{2,1,0:T(8,128)(2,1)} dynamic-slice(%p0, %p1, %zero, %zero), dynamic_slice_sizes={1,512,256}
  ROOT %flat = bf16[512,256]{1,0:T(8,128)(2,1)} bitcast(%one_batch)
}

%multiply (p0: bf16[256,128], p1: bf16[4,512,256], p2: s32[]) -> bf16[512,128] {
  %p0 = bf16[256,128]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[4,512,256]{2,1,0:T(8,128)(2,1)} parameter(1)
  %p2 = s32[]{:T(128)S(6)} parameter(2)
  %batch = bf16[512,256]{1,0:T(8,128)(2,1)} fusion(%p1, %p2), kind=kLoop, calls=%slice_batch
  ROOT %product = bf16[512,128]{1,0:T(8,128)(2,1)S(1)} convolution(%batch, %p0), dim_labels=bf_io->bf
}

%body (state: (s32[], bf16[512,128], bf16[4,512,256], bf16[256,128])) -> (s32[], bf16[512,128], bf16[4,512,256], bf16[256,128]) {
  %one = s32[]{:T(128)} constant(1)
  %state = (s32[]{:T(128)}, bf16[512,128]{1,0:T(8,128)(2,1)S(1)}, bf16[4,512,256]{2,1,0:T(8,128)(2,1)}, /*index=3*/bf16[256,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %i_copy = s32[]{:T(128)S(6)} copy(%i)
  %next = s32[]{:T(128)} add(%i_copy, %one)
  %batches = bf16[4,512,256]{2,1,0:T(8,128)(2,1)} get-tuple-element(%state), index=2
  %weights = bf16[256,128]{1,0:T(8,128)(2,1)} get-tuple-element(%state), index=3
  %fusion.1 = bf16[512,128]{1,0:T(8,128)(2,1)S(1)} fusion(%weights, %batches, %i_copy), kind=kOutput, calls=%multiply, metadata={op_name="jit(step)/dot" stack_frame_id=1}, backend_config={"window_config":{"estimated_cycles":"1000"}}
  ROOT %result = (s32[]{:T(128)}, bf16[512,128]{1,0:T(8,128)(2,1)S(1)}, bf16[4,512,256]{2,1,0:T(8,128)(2,1)}, /*index=3*/bf16[256,128]{1,0:T(8,128)(2,1)}) tuple(%next, %fusion.1, %batches, /*index=3*/%weights)
}

%condition (state: (s32[], bf16[512,128], bf16[4,512,256], bf16[256,128])) -> pred[] {
  %last = s32[]{:T(128)} constant(4)
  %state = (s32[]{:T(128)}, bf16[512,128]{1,0:T(8,128)(2,1)S(1)}, bf16[4,512,256]{2,1,0:T(8,128)(2,1)}, /*index=3*/bf16[256,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %goes_on = pred[]{:T(512)} compare(%i, %last), direction=LT
}

ENTRY %main (batches: bf16[4,512,256], weights: bf16[256,128]) -> bf16[512,128] {
  %zero = s32[]{:T(128)} constant(0)
  %batches = bf16[4,512,256]{2,1,0:T(8,128)(2,1)} parameter(0)
  %weights = bf16[256,128]{1,0:T(8,128)(2,1)} parameter(1)
  %start = s32[]{:T(128)} copy(%zero)
  %sum = bf16[512,128]{1,0:T(8,128)(2,1)S(1)} custom-call(), custom_call_target="AllocateBuffer"
  %state = (s32[]{:T(128)}, bf16[512,128]{1,0:T(8,128)(2,1)S(1)}, bf16[4,512,256]{2,1,0:T(8,128)(2,1)}, /*index=3*/bf16[256,128]{1,0:T(8,128)(2,1)}) tuple(%start, %sum, %batches, /*index=3*/%weights)
  %while = (s32[]{:T(128)}, bf16[512,128]{1,0:T(8,128)(2,1)S(1)}, bf16[4,512,256]{2,1,0:T(8,128)(2,1)}, /*index=3*/bf16[256,128]{1,0:T(8,128)(2,1)}) while(%state), condition=%condition, body=%body
  %gradient = bf16[512,128]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%while), index=1
  ROOT %all-reduce = bf16[512,128]{1,0:T(8,128)(2,1)} all-reduce(%gradient), channel_id=1, replica_groups={{0,1,2,3}}, use_global_device_ids=true, to_apply=%add
}
"""

# A kernel of Pallas as splash attention writes it: an attribute with line breaks, and its own
# estimate of its work, which nobody else can know.
KERNEL = """\
HloModule jit_f, is_scheduled=true

ENTRY %main (q: bf16[2,4,512,128]) -> bf16[2,4,512,128] {
  %q = bf16[2,4,512,128]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  %kernel = (f32[2,128,128]{2,1,0:T(8,128)S(1)}, bf16[2,4,512,128]{3,2,1,0:T(8,128)(2,1)}) custom-call(%q), custom_call_target="tpu_custom_call", operand_layout_constraints={bf16[2,4,512,128]{3,2,1,0}}, frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 128, \\"q_layout\\": 1}"
}}, metadata={op_name="jit(f)/pallas_call" stack_frame_id=4}, backend_config={"flag_configs":[],"custom_call_config":{"body":"TUzvUg==","cost_estimate":{"flops":"1000000","transcendentals":"11","bytes_accessed":"6789"}}}
  ROOT %out = bf16[2,4,512,128]{3,2,1,0:T(8,128)(2,1)} get-tuple-element(%kernel), index=1, frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 128, \\"q_layout\\": 1}"
}}, metadata={op_name="jit(f)/pallas_call" stack_frame_id=4}
}
"""

# A prefetch into VMEM that is started early; its result is read when it is done.
PREFETCH = """\
HloModule jit_g, is_scheduled=true

ENTRY %main (p: f32[512,128]) -> f32[512,128] {
  %p = f32[512,128]{1,0:T(8,128)} parameter(0)
  %copy-start = (f32[512,128]{1,0:T(8,128)S(1)}, f32[512,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%p)
  %copy-done = f32[512,128]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  ROOT %twice = f32[512,128]{1,0:T(8,128)} add(%copy-done, %copy-done)
}
"""

# A 3x3 convolution of stride 1 and the gradient of its kernel, as the TPU compiler writes both.
CONVOLUTIONS = """\
HloModule jit_f, is_scheduled=true

%fused (p0: bf16[16,56,56,64], p1: bf16[3,3,64,64]) -> bf16[16,56,56,64] {
  %p0 = bf16[16,56,56,64]{0,3,2,1:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[3,3,64,64]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  %doubled = bf16[16,56,56,64]{0,3,2,1:T(8,128)(2,1)} add(%p0, %p0)
  ROOT %conv = bf16[16,56,56,64]{0,3,2,1:T(8,128)(2,1)} convolution(%doubled, %p1), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f
}

ENTRY %main (x: bf16[16,56,56,64], w: bf16[3,3,64,64]) -> bf16[3,3,64,64] {
  %x = bf16[16,56,56,64]{0,3,2,1:T(8,128)(2,1)} parameter(0)
  %w = bf16[3,3,64,64]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  %y = bf16[16,56,56,64]{0,3,2,1:T(8,128)(2,1)} fusion(%x, %w), kind=kOutput, calls=%fused, metadata={op_name="jit(f)/jvp(Net)/cv1/conv/conv_general_dilated"}
  ROOT %dw = bf16[3,3,64,64]{3,2,1,0:T(8,128)(2,1)} convolution(%x, %y), window={size=56x56 pad=1_1x1_1}, dim_labels=f01b_i01o->01bf, metadata={op_name="jit(f)/transpose(jvp(Net))/cv1/conv/conv_general_dilated"}
}
"""
