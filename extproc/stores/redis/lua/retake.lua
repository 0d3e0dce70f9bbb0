-- ARGV: now or '', hold, life, draws. Of a call that is running: whether there is room or not.
if is_settled() then return 0 end
local record = own_record() or {0}
if record[1] ~= 0 then
  move(record, staying(record, kept_of(record)), nil, 1)
  record[1] = 0
  call('ZREM', PAST, 'h' .. hold)
end
local draws = locate(cmsgpack.unpack(ARGV[4]), now)
give(record, draws, lacking(record, draws))
return 1
