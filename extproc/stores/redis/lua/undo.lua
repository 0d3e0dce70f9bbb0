-- ARGV: now or '', hold. A reserve of which nobody knows whether it was taken: as if it had never been.
local record = record_of(hold)
if not record or record[1] ~= 0 then return 0 end
move(record, nil, staying(record, {}), -1)
call('HDEL', HOLDS, hold)
call('ZREM', ENDS, hold)
store()
return 1
